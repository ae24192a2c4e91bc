#include <filesystem>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/plot.h"
#include "cli/recordings.h"
#include "cli/report.h"
#include "cli/working_set_view.h"

namespace thaw::command {

namespace {

/// A snapshot with the recordings that there are of it, at least one.
struct Recorded {
  PageClient client;
  Manifest snapshot;
  std::vector<message::RecordingSummary> recordings;
};

Result<Recorded> find_recordings(const Options& options) {
  Manifest snapshot;
  message::WorkingSetReport report;
  ServerList servers = TRY(servers_of(options));
  PageClient client = TRY(servers.connect([&](PageClient& begun) -> Result<void> {
    snapshot = TRY(begun.show(options.name));
    report = TRY(begun.working_set_report(snapshot.snapshot));
    if (!report.recordings.empty()) return {};
    return fail(ErrorCode::kNotFound, "{} has no recording", options.name);
  }));
  return Recorded{std::move(client), std::move(snapshot), std::move(report.recordings)};
}

/// What is to be drawn.
struct Drawing {
  Recording recording;
  PageCount memory;
  std::string title;
};

Result<Drawing> newest_recording(const Options& options) {
  Recorded of = TRY(find_recordings(options));
  const message::RecordingSummary& newest = of.recordings.back();
  Recording recording = TRY(of.client.recording(of.snapshot.snapshot, newest.number));
  return Drawing{.recording = std::move(recording),
                 .memory = of.snapshot.spec.memory_pages(),
                 .title = fmt::format("{}: recording {} of {} UTC", options.name, newest.number,
                                      human_time(newest.created_unix_ms))};
}

Result<Drawing> trace(const std::string& path) {
  std::vector<Recording> recordings = TRY(read_recordings(path));
  Recording& last = recordings.back();
  const PageCount memory = TRY(memory_of(last));
  return Drawing{.recording = std::move(last),
                 .memory = memory,
                 .title = "trace " + std::filesystem::path(path).filename().string()};
}

}  // namespace

Result<void> show_working_set(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  const auto set = TRY(servers.ask([&](PageClient& client) -> Result<WorkingSetView> {
    return fetch_working_set(client, TRY(client.show(options.name)));
  }));
  print_working_set(set, options.form());
  return {};
}

Result<void> export_recordings(const Options& options) {
  Recorded of = TRY(find_recordings(options));
  TRY(thaw::export_recordings(of.client, of.snapshot.snapshot, of.recordings, options.file));
  print_recordings("exported", of.recordings.size(), options.form());
  return {};
}

Result<void> import_recordings(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  const std::size_t count = TRY(thaw::import_recordings(servers, options.name, options.file));
  print_recordings("imported", count, options.form());
  return {};
}

Result<void> drop_working_set(const Options& options) {
  ServerList servers = TRY(servers_of(options));
  TRY(servers.ask([&](PageClient& client) -> Result<void> {
    return client.drop_working_set(TRY(client.show(options.name)).snapshot);
  }));
  print_success(options.form());
  return {};
}

Result<void> plot(const Options& options) {
  const Drawing drawing =
      TRY(options.trace.empty() ? newest_recording(options) : trace(options.trace));
  const std::string picture = plot_svg(drawing.recording, drawing.memory, drawing.title);
  PartialFile file = TRY(PartialFile::create(options.file));
  TRY(write_at(file.fd(), as_bytes(picture), 0));
  TRY(file.publish());
  print_success(options.form());
  return {};
}

}  // namespace thaw::command
