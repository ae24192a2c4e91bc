#include <filesystem>
#include <functional>
#include <optional>

#include "base/output_file.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/plot.h"
#include "cli/recordings.h"
#include "cli/report.h"
#include "cli/transfer.h"
#include "cli/working_set_view.h"

namespace thaw::command {

namespace {

/// A snapshot with the recordings that there are of it, at least one.
struct Recorded {
  Manifest snapshot;
  std::vector<message::RecordingSummary> recordings;
};

Result<Recorded> find_recordings(PageClient& client, const std::string& name) {
  Manifest snapshot = TRY(client.show(name));
  auto report = TRY(client.working_set_report(snapshot.snapshot));
  if (report.recordings.empty()) return fail(ErrorCode::kNotFound, "{} has no recording", name);
  return Recorded{std::move(snapshot), std::move(report.recordings)};
}

/// Gives `take` what there is of a snapshot, once, and the connection on which to get more.
Result<void> with_recordings(
    const Options& options, const std::function<Result<void>(PageClient&, const Recorded&)>& take) {
  Transfer transfer(TRY(servers_of(options)));
  std::optional<Recorded> of;
  return transfer.run(
      [&](PageClient& client) -> Result<void> {
        of = TRY(find_recordings(client, options.name));
        return {};
      },
      [&](PageClient& client) { return take(client, *of); });
}

/// What is to be drawn.
struct Drawing {
  Recording recording;
  PageCount memory;
  std::string title;
};

Result<Drawing> newest_recording(const Options& options) {
  Drawing drawing;
  TRY(with_recordings(options, [&](PageClient& client, const Recorded& of) -> Result<void> {
    const message::RecordingSummary& newest = of.recordings.back();
    drawing = {.recording = TRY(client.recording(of.snapshot.snapshot, newest.number)),
               .memory = of.snapshot.spec.memory_pages(),
               .title = fmt::format("{}: recording {} of {} UTC", options.name, newest.number,
                                    human_time(newest.created_unix_ms))};
    return {};
  }));
  return drawing;
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
  OutputFile file = TRY(OutputFile::open(options.file));
  std::size_t count = 0;
  Bytes content;
  TRY(with_recordings(options, [&](PageClient& client, const Recorded& of) -> Result<void> {
    count = of.recordings.size();
    content = TRY(fetch_recordings(client, of.snapshot.snapshot, of.recordings));
    return {};
  }));
  TRY(file.write(content, 0));
  TRY(file.publish());
  print_recordings("exported", count, options.form());
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
  OutputFile file = TRY(OutputFile::open(options.file));
  const Drawing drawing =
      TRY(options.trace.empty() ? newest_recording(options) : trace(options.trace));
  const std::string picture = plot_svg(drawing.recording, drawing.memory, drawing.title);
  TRY(file.write(as_bytes(picture), 0));
  TRY(file.publish());
  print_success(options.form());
  return {};
}

}  // namespace thaw::command
