#include "faulthandler/control_server.h"

#include "base/file.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"
#include "format/control_channel.h"

namespace thaw {

namespace {
constexpr unsigned kThreads = 4;
/// How soon a thread that waits for a connection sees that it shall stop.
constexpr std::chrono::milliseconds kStopInterval{200};
}  // namespace

ControlServer::ControlServer(std::string path, UniqueFd listener, Daemon& daemon)
    : path_(std::move(path)), listener_(std::move(listener)), daemon_(daemon) {
  for (unsigned i = 0; i < kThreads; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { serve(stop); });
  }
}

ControlServer::~ControlServer() {
  remove_file(path_);
  for (std::jthread& thread : threads_) thread.request_stop();
}

void ControlServer::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const auto connection = accept_unix(listener_, Deadline::after(kStopInterval));
    if (connection) {
      answer(*connection);
    } else if (connection.error().code() != ErrorCode::kTimeout) {
      // Out of descriptors, mostly: whoever has connected stays in the queue.
      log_error("control socket: {}", connection.error().message());
      rest(stop);
    }
  }
}

void ControlServer::rest(const std::stop_token& stop) {
  std::unique_lock lock(resting_);
  rested_.wait_for(lock, stop, limits::kAcceptPauseMost, [] { return false; });
}

void ControlServer::answer(const UniqueFd& connection) {
  const auto line = receive_control_line(connection, Deadline::after(limits::kControlTimeout));
  if (!line) return log_warning("control socket: {}", line.error().message());
  const auto request = decode_control_request(*line);
  const ControlReply reply = request ? daemon_.handle(*request) : ControlReply(request.error());
  const auto sent = send_all(connection, as_bytes(encode_control_reply(reply)),
                             Deadline::after(limits::kControlTimeout));
  if (!sent) log_warning("control socket: {}", sent.error().message());
}

}  // namespace thaw
