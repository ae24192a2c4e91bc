#include "base/connection_threads.h"

#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"

namespace thaw {

namespace {
/// How soon a thread that waits for a connection sees that it shall stop.
constexpr std::chrono::milliseconds kStopInterval{200};
}  // namespace

ConnectionThreads::ConnectionThreads(std::string name, UniqueFd listener, unsigned count,
                                     std::function<void(const UniqueFd&)> answer)
    : name_(std::move(name)), listener_(std::move(listener)), answer_(std::move(answer)) {
  for (unsigned i = 0; i < count; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { serve(stop); });
  }
}

ConnectionThreads::~ConnectionThreads() {
  for (std::jthread& thread : threads_) thread.request_stop();
}

void ConnectionThreads::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const auto connection = accept_connection(listener_, Deadline::after(kStopInterval));
    if (connection) {
      answer_(*connection);
    } else if (connection.error().code() != ErrorCode::kTimeout) {
      // Out of descriptors, mostly: whoever has connected stays in the queue.
      log_error("{}: {}", name_, connection.error().message());
      rest(stop, limits::kAcceptPauseMost);
    }
  }
}

}  // namespace thaw
