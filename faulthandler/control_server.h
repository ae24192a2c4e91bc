#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/daemon.h"

namespace thaw {

/// Answers the control socket on threads of its own, one exchange a connection, so that neither a
/// slow page server nor a client that stalls can hold up a fault. Removes the socket on stop.
class ControlServer {
 public:
  /// `listener` listens at `path`.
  ControlServer(std::string path, UniqueFd listener, Daemon& daemon);
  ~ControlServer();

 private:
  void serve(const std::stop_token& stop);
  /// Waits before the next attempt to accept, but not once it shall stop.
  void rest(const std::stop_token& stop);
  void answer(const UniqueFd& connection);

  const std::string path_;
  const UniqueFd listener_;
  Daemon& daemon_;
  std::mutex resting_;
  std::condition_variable_any rested_;  // never told: it ends with the time or the thread
  std::vector<std::jthread> threads_;
};

}  // namespace thaw
