#pragma once

#include <functional>
#include <vector>

#include "faulthandler/page_servers.h"
#include "faulthandler/session.h"
#include "faulthandler/uploader.h"
#include "format/control.h"
#include "format/page_client.h"
#include "format/recording.h"

namespace thaw {

/// The recording of what a session's guest touched: each page where it was touched first.
Recording make_recording(const Session& session, std::vector<Touch> touches);

/// What is told of a restore when its window is over: its recording and what prefetch did, to the
/// page server; its trace, to a file. On the loop's thread.
class RestoreReports {
 public:
  /// Called on another thread when it is known what became of a session's recording.
  using OnRecording = std::function<void(std::uint64_t session, RecordingState state)>;

  /// `uploader` must end first.
  RestoreReports(PageServers& servers, Uploader& uploader, OnRecording on_recording)
      : servers_(servers), uploader_(uploader), on_recording_(std::move(on_recording)) {}

  void on_window_end(Session& session, std::vector<Touch> touches);

 private:
  /// False when too much waits to be brought away.
  bool add(Uploader::Upload upload);
  /// Has it sent to a page server that keeps the session's snapshot and takes it.
  bool upload(const Session& session, const char* what,
              std::function<Result<void>(PageClient&, SnapshotId)> send,
              std::function<void(bool sent)> done);
  void send_recording(Session& session, Recording recording);
  void send_counters(const Session& session);
  static void write_trace(Session& session, const Recording& trace);

  PageServers& servers_;
  Uploader& uploader_;
  const OnRecording on_recording_;
};

}  // namespace thaw
