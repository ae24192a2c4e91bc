#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "format/control.h"

namespace thaw::test {

/// A fault handler's control socket in the hands of a test, which says what is answered. The
/// answers are asked for on a thread of its own.
class ScriptedHandler {
 public:
  using Answer = std::function<ControlReply(const ControlRequest&)>;

  ScriptedHandler(const std::string& socket_path, Answer answer);
  ScriptedHandler(const ScriptedHandler&) = delete;
  ScriptedHandler& operator=(const ScriptedHandler&) = delete;

  /// All requests of a kind so far.
  template <typename Request>
  std::vector<Request> requests() {
    const std::lock_guard lock(mutex_);
    std::vector<Request> found;
    for (const ControlRequest& request : requests_) {
      if (const auto* const wanted = std::get_if<Request>(&request)) found.push_back(*wanted);
    }
    return found;
  }

 private:
  void serve(const std::stop_token& stop);

  const UniqueFd listener_;
  const Answer answer_;
  std::mutex mutex_;
  std::vector<ControlRequest> requests_;
  std::jthread thread_;
};

}  // namespace thaw::test
