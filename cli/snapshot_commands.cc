#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/pull.h"
#include "cli/push.h"
#include "cli/report.h"
#include "format/page_client.h"

namespace thaw::command {

Result<PageClient> connect(const Options& options) {
  return PageClient::connect(TRY(resolve_server(options.server, options.transport)),
                             options.name_space);
}

Result<void> push(const Options& options) {
  const PushOptions push{.server = TRY(resolve_server(options.server, options.transport)),
                         .name_space = options.name_space,
                         .name = options.name,
                         .parent = options.parent,
                         .memory_path = options.memory,
                         .holes = options.diff ? Holes::kPagesOfParent : Holes::kZeros,
                         .state_path = options.state,
                         .regions = TRY(parse_regions(options.regions)),
                         .labels = TRY(parse_labels(options.labels)),
                         .paging = {options.cr3s, options.la57 ? 5u : 4u},
                         .below_4g = {TRY(parse_size(options.below_4g))}};
  print_push(TRY(push_snapshot(push)), options.form());
  return {};
}

Result<void> pull(const Options& options) {
  const PullOptions pull{.server = TRY(resolve_server(options.server, options.transport)),
                         .name_space = options.name_space,
                         .name = options.name,
                         .memory_path = options.memory,
                         .state_path = options.state};
  print_pull(TRY(pull_snapshot(pull)), options.form());
  return {};
}

Result<void> list(const Options& options) {
  PageClient client = TRY(connect(options));
  const std::vector<Manifest> snapshots = TRY(client.list());
  print_snapshots(snapshots, TRY(client.tags()), options.form());
  return {};
}

Result<void> show(const Options& options) {
  PageClient client = TRY(connect(options));
  print_snapshot(TRY(client.show(options.name)), options.form());
  return {};
}

Result<void> remove(const Options& options) {
  PageClient client = TRY(connect(options));
  TRY(client.remove({options.name, options.when_unused}));
  print_success(options.form());
  return {};
}

Result<void> statistics(const Options& options) {
  PageClient client = TRY(connect(options));
  print_statistics(TRY(client.statistics()), options.form());
  return {};
}

}  // namespace thaw::command
