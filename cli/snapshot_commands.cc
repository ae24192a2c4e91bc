#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/pull.h"
#include "cli/push.h"
#include "cli/report.h"
#include "format/page_client.h"

namespace thaw::command {

Result<ServerList> servers_of(const Options& options) {
  return ServerList::create(options.servers, options.transport, options.name_space);
}

Result<void> push(const Options& options) {
  // Apart: g++ does not destroy the members before one whose initialiser returns.
  ServerList servers = TRY(servers_of(options));
  auto regions = TRY(parse_regions(options.regions));
  auto labels = TRY(parse_labels(options.labels));
  const std::uint64_t below_4g = TRY(parse_size(options.below_4g));
  PushOptions push{.servers = std::move(servers),
                   .name = options.name,
                   .parent = options.parent,
                   .memory_path = options.memory,
                   .holes = options.diff ? Holes::kPagesOfParent : Holes::kZeros,
                   .state_path = options.state,
                   .regions = std::move(regions),
                   .labels = std::move(labels),
                   .paging = {options.cr3s, options.la57 ? 5u : 4u},
                   .below_4g = {below_4g}};
  print_push(TRY(push_snapshot(std::move(push))), options.form());
  return {};
}

Result<void> pull(const Options& options) {
  PullOptions pull{.servers = TRY(servers_of(options)),
                   .name = options.name,
                   .memory_path = options.memory,
                   .state_path = options.state};
  print_pull(TRY(pull_snapshot(std::move(pull))), options.form());
  return {};
}

Result<void> list(const Options& options) {
  PageClient::SnapshotList snapshots;
  ServerList servers = TRY(servers_of(options));
  const auto tags = TRY(servers.ask([&](PageClient& client) -> Result<std::vector<message::Tag>> {
    snapshots = TRY(client.list());
    return client.tags();
  }));
  print_snapshots(snapshots, tags, options.form());
  return {};
}

Result<void> show(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  const Manifest snapshot =
      TRY(servers.ask([&](PageClient& client) { return client.show(options.name); }));
  print_snapshot(snapshot, options.form());
  return {};
}

Result<void> remove(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  TRY(servers.ask(
      [&](PageClient& client) { return client.remove({options.name, options.when_unused}); }));
  print_success(options.form());
  return {};
}

Result<void> statistics(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  print_statistics(TRY(servers.ask([](PageClient& client) { return client.statistics(); })),
                   options.form());
  return {};
}

}  // namespace thaw::command
