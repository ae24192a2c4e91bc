#include "faulthandler/restore_reports.h"

#include <unordered_set>

#include "base/file.h"
#include "format/page_client.h"

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
  const std::string& trace_out = session.options().trace_out;
  if (!trace_out.empty()) write_trace(trace_out, recording);
  if (serve.window_use != WindowUse::kRecord) return;
  session.set_recording(RecordingState::kUploading);
  send_recording(session, std::move(recording));
}

void RestoreReports::send_recording(const Session& session, Recording recording) {
  const SessionOptions& options = session.options();
  uploader_.add({.what = fmt::format("the recording of session {}", options.id),
                 .attempt = [server = server_, name_space = options.name_space,
                             snapshot = options.serve.image->manifest.snapshot,
                             recording = std::move(recording)]() -> Result<void> {
                   PageClient client = TRY(PageClient::connect(server, name_space));
                   return client.put_recording(snapshot, recording);
                 },
                 .done =
                     [this, id = options.id](bool sent) {
                       on_recording_(id, sent ? RecordingState::kStored : RecordingState::kFailed);
                     }});
}

void RestoreReports::send_counters(const Session& session) {
  const SessionOptions& options = session.options();
  const SessionReport report = session.report();
  const message::PrefetchCounters counters{.sessions = 1,
                                           .set_pages = report.prefetch.set_pages,
                                           .prefetched_pages = report.prefetch.prefetched_pages,
                                           .late_pages = report.prefetch.late_pages,
                                           .faults = report.faults.total,
                                           .bytes = report.prefetch.bytes};
  uploader_.add(
      {.what = fmt::format("the prefetch report of session {}", options.id),
       .attempt = [server = server_, name_space = options.name_space,
                   snapshot = options.serve.image->manifest.snapshot, counters]() -> Result<void> {
         PageClient client = TRY(PageClient::connect(server, name_space));
         return client.put_prefetch_report(snapshot, counters);
       },
       .done = [](bool) {}});
}

void RestoreReports::write_trace(const std::string& path, const Recording& trace) {
  uploader_.add({.what = fmt::format("the trace {}", path),
                 .attempt = [path, bytes = encode_recording(trace)]() -> Result<void> {
                   PartialFile file = TRY(PartialFile::create(path));
                   TRY(write_at(file.fd(), bytes, 0));
                   return file.publish();
                 },
                 .done = [](bool) {}});
}

}  // namespace thaw
