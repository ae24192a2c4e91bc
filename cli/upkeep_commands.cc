#include <csignal>
#include <optional>

#include "base/event_fd.h"
#include "base/exit_code.h"
#include "base/process.h"
#include "base/types.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/report.h"

namespace thaw::command {

namespace {

constexpr std::chrono::milliseconds kPoll{100};

/// Has the page server do a job and waits for its end, however long that takes. A signal stops the
/// job, a second one ends the wait.
Result<int> run_job(const Options& options, message::JobKind kind, const std::string& what) {
  const UniqueFd signals = TRY(take_signals({SIGINT, SIGTERM, SIGHUP}));
  bool stopped = false;
  message::JobReport report;
  ServerList servers = TRY(servers_of(options));
  PageClient client = TRY(servers.connect([&](PageClient& begun) -> Result<void> {
    report = TRY(begun.start_job({.kind = kind,
                                  .dry_run = options.dry_run,
                                  .target = options.name,
                                  .at_once = options.at_once}));
    return {};
  }));
  std::optional<Progress> progress;
  while (report.state == message::JobState::kRunning) {
    if (wait_until_readable(signals, Deadline::after(kPoll)) && next_signal(signals) != 0) {
      if (stopped) return fail(ErrorCode::kStopped, "job {} has not ended yet", report.number);
      stopped = true;
      const auto asked = client.stop_job(report.number);
      if (!asked && asked.error().code() != ErrorCode::kNotFound) {
        return std::unexpected(asked.error());
      }
    }
    report = TRY(client.job(report.number));
    if (report.total == 0) continue;
    if (!progress) progress.emplace(what, bytes_of({report.total}));
    progress->update(bytes_of({report.done}));
  }
  progress.reset();
  print_job(report, options.form());
  return report.state == message::JobState::kDone ? 0 : exit_code_for(report.error.code);
}

Result<message::NamespaceSettings> settings_of(const Options& options,
                                               message::NamespaceSettings settings) {
  if (options.quota) settings.quota_bytes = TRY(parse_size(*options.quota));
  if (options.keep_for) settings.keep_seconds = TRY(parse_duration(*options.keep_for));
  settings.quota_snapshots = options.quota_snapshots.value_or(settings.quota_snapshots);
  settings.keep_last = options.keep_last.value_or(settings.keep_last);
  settings.keep_per_label = options.keep_per_label.value_or(settings.keep_per_label);
  return settings;
}

}  // namespace

Result<void> tag(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  TRY(servers.ask([&](PageClient& client) {
    return client.move_tag({.tag = options.tag, .name = options.name});
  }));
  print_success(options.form());
  return {};
}

Result<void> untag(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  TRY(servers.ask([&](PageClient& client) { return client.remove_tag(options.tag); }));
  print_success(options.form());
  return {};
}

Result<void> label(const Options& options) {
  message::ChangeLabels change{.name = options.name, .set = {}, .remove = options.removed_labels};
  change.set = TRY(parse_labels(options.labels));
  ServerList servers = TRY(servers_of(options));
  const Manifest snapshot =
      TRY(servers.ask([&](PageClient& client) { return client.change_labels(change); }));
  print_snapshot(snapshot, options.form());
  return {};
}

Result<void> show_usage(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  const message::Usage usage =
      TRY(servers.ask([&](PageClient& client) { return client.usage(options.name); }));
  print_usage(usage, options.form());
  return {};
}

Result<void> show_or_set_namespace(const Options& options) {
  // What is wrong is told before a server is asked.
  TRY(settings_of(options, {}));
  ServerList servers = TRY(servers_of(options));
  const auto report = TRY(servers.ask([&](PageClient& client) -> Result<message::NamespaceReport> {
    // One that is not there yet has no settings.
    const auto before = TRY(if_found(client.namespace_report()));
    const auto as_they_were = before ? before->settings : message::NamespaceSettings();
    const auto settings = TRY(settings_of(options, as_they_were));
    if (settings != as_they_were) TRY(client.set_namespace(settings));
    return client.namespace_report();
  }));
  print_namespace(report, options.form());
  return {};
}

Result<void> remove_namespace(const Options& options) {
  Options there = options;
  there.name_space = options.name;
  ServerList servers = TRY(servers_of(there));
  TRY(servers.ask([](PageClient& client) { return client.remove_namespace(); }));
  print_success(options.form());
  return {};
}

Result<int> collect_garbage(const Options& options) {
  return run_job(options, message::JobKind::kCollect, "gc");
}
Result<int> scrub(const Options& options) {
  return run_job(options, message::JobKind::kScrub, "scrub");
}
Result<int> retain(const Options& options) {
  return run_job(options, message::JobKind::kRetain, "retain");
}
Result<int> back_up(const Options& options) {
  return run_job(options, message::JobKind::kBackup, "backup");
}
Result<int> compact(const Options& options) {
  return run_job(options, message::JobKind::kCompact, "compact");
}

Result<void> check_store(const Options& options) {
  std::vector<std::string> command{TRY(program_beside_this_one("thaw-pageserver")), "--store",
                                   options.file, "--check"};
  if (options.repair) command.emplace_back("--repair");
  if (options.json) command.emplace_back("--json");
  return become(command);
}

}  // namespace thaw::command
