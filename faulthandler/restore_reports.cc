#include "faulthandler/restore_reports.h"

#include <unordered_set>

#include "base/file.h"
#include "base/log.h"
#include "base/memory_file.h"

namespace thaw {

Recording make_recording(const Session& session, std::vector<Touch> touches) {
  std::unordered_set<std::uint64_t> seen;
  std::erase_if(touches, [&](const Touch& touch) { return !seen.insert(touch.page.value).second; });
  return {.content_hash = session.options().serve.image->manifest.content_hash,
          .created_unix_ms = unix_milliseconds(),
          .regions = session.layout(),
          .touches = std::move(touches)};
}

void RestoreReports::on_window_end(Session& session, std::vector<Touch> touches) {
  const ServeOptions& serve = session.options().serve;
  if (serve.plan.set != nullptr) send_counters(session);
  if (serve.window_use == WindowUse::kNone) return;
  Recording recording = make_recording(session, std::move(touches));
  if (!session.options().trace_out.empty()) write_trace(session, recording);
  if (serve.window_use != WindowUse::kRecord) return;
  if (recording.touches.empty()) return session.set_recording(RecordingState::kFailed);
  send_recording(session, std::move(recording));
}

bool RestoreReports::upload(const Session& session, const char* what,
                            std::function<Result<void>(PageClient&, SnapshotId)> send,
                            std::function<void(bool sent)> done) {
  const SessionOptions& options = session.options();
  return add({.what = fmt::format("the {} of session {}", what, options.id),
              .attempt =
                  [&servers = servers_, origin = options.serve.image->origin,
                   snapshot = options.serve.image->manifest.snapshot, send = std::move(send)] {
                    return servers.ask(origin.name_space, [&](PageClient& client) -> Result<void> {
                      if (client.store() == origin.store) return send(client, snapshot);
                      return fail(ErrorCode::kWrongStore, "the page server keeps the store {}",
                                  client.store().text());
                    });
                  },
              .done = std::move(done)});
}

bool RestoreReports::add(Uploader::Upload upload) {
  const auto added = uploader_.add(std::move(upload));
  if (!added) log_warning("{}", added.error().message());
  return added.has_value();
}

void RestoreReports::send_recording(Session& session, Recording recording) {
  const bool added = upload(
      session, "recording",
      [recording = std::move(recording)](PageClient& client, SnapshotId snapshot) {
        return client.put_recording(snapshot, recording);
      },
      [this, id = session.options().id](bool sent) {
        on_recording_(id, sent ? RecordingState::kStored : RecordingState::kFailed);
      });
  session.set_recording(added ? RecordingState::kUploading : RecordingState::kFailed);
}

void RestoreReports::send_counters(const Session& session) {
  const SessionReport report = session.report();
  const message::PrefetchCounters counters{.sessions = 1,
                                           .set_pages = report.prefetch.set_pages,
                                           .prefetched_pages = report.prefetch.prefetched_pages,
                                           .late_pages = report.prefetch.late_pages,
                                           .faults = report.faults.total,
                                           .bytes = report.prefetch.bytes};
  upload(
      session, "prefetch report",
      [counters](PageClient& client, SnapshotId snapshot) {
        return client.put_prefetch_report(snapshot, counters);
      },
      [](bool) {});
}

void RestoreReports::write_trace(Session& session, const Recording& trace) {
  const auto keep = [&]() -> Result<UniqueFd> {
    const Bytes bytes = encode_recording(trace);
    UniqueFd file = TRY(create_memory_file("thaw-trace", {bytes.size()}));
    TRY(write_at(file, bytes, 0));
    return file;
  };
  auto content = keep();
  if (content) return session.write_trace(*std::move(content));
  log_error("session {}: no trace: {}", session.options().id, content.error().message());
}

}  // namespace thaw
