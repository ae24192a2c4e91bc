#include <algorithm>
#include <csignal>
#include <optional>

#include "base/event_fd.h"
#include "base/output_file.h"
#include "cli/commands.h"
#include "cli/record.h"
#include "cli/recordings.h"
#include "cli/report.h"
#include "cli/transfer.h"
#include "cli/working_set_view.h"

namespace thaw::command {

namespace {

constexpr std::initializer_list<int> kStopSignals{SIGINT, SIGTERM, SIGHUP};

using Summaries = std::vector<message::RecordingSummary>;

/// The recordings that the page server keeps of a snapshot from this number on.
Result<Summaries> recordings_from(PageClient& client, const Manifest& snapshot,
                                  std::uint64_t number) {
  auto report = TRY(if_found(client.working_set_report(snapshot.snapshot)));
  if (!report) return Summaries();
  Summaries& recordings = report->recordings;
  std::erase_if(recordings, [&](const auto& recording) { return recording.number < number; });
  return std::move(recordings);
}

RecordOptions record_options(const Options& options, const Manifest& snapshot) {
  control::Prepare prepare{.snapshot = options.name,
                           .socket = {},
                           .state_out = {},
                           .name_space = options.name_space,
                           .owner_uid = {},
                           .owner_gid = {},
                           .record = RecordMode::kAlways,
                           .record_idle_ms = options.record_idle_ms,
                           .record_most_ms = options.record_most_ms,
                           .trace_out = {}};
  return {.control = options.control,
          .prepare = std::move(prepare),
          .with_state = snapshot.spec.state.value > 0,
          .runs = options.runs,
          .command = options.command};
}

}  // namespace

Result<int> record(const Options& options) {
  std::optional<OutputFile> file;
  if (!options.file.empty()) file.emplace(TRY(OutputFile::open(options.file)));
  const UniqueFd stop_signals = TRY(take_signals(kStopSignals));
  ServerList servers = TRY(servers_of(options));
  Manifest snapshot;
  const Summaries known = TRY(servers.ask([&](PageClient& client) -> Result<Summaries> {
    snapshot = TRY(client.show(options.name));
    return recordings_from(client, snapshot, 0);
  }));
  const std::uint64_t next = known.empty() ? 0 : known.back().number + 1;

  const auto runs =
      TRY(record_runs(record_options(options, snapshot), stop_signals,
                      [&](const RecordedRun& run) { print_run(run, options.form()); }));

  // What is left to do may end at any time.
  give_back_signals(kStopSignals);
  std::optional<WorkingSetView> set;
  const bool all_stored = std::ranges::all_of(runs, &RecordedRun::stored);
  const bool any_stored = std::ranges::any_of(runs, &RecordedRun::stored);
  if (any_stored) {
    Bytes content;
    TRY(Transfer(std::move(servers))
            .run([](PageClient&) { return Result<void>(); },
                 [&](PageClient& client) -> Result<void> {
                   set = TRY(fetch_working_set(client, snapshot));
                   const Summaries fresh = TRY(recordings_from(client, snapshot, next));
                   content = TRY(fetch_recordings(client, snapshot.snapshot, fresh));
                   return {};
                 }));
    if (file) {
      TRY(file->write(content, 0));
      TRY(file->publish());
    }
  }
  print_runs(runs, set, options.form());
  return all_stored ? 0 : 1;
}

}  // namespace thaw::command
