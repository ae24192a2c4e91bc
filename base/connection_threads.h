#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"

namespace thaw {

/// Threads that answer whoever connects to a listening socket, one exchange a connection: so many
/// at one time, the others wait in the socket's queue.
class ConnectionThreads {
 public:
  /// `answer` gets each connection, non-blocking, on one of the threads; it ends by itself after a
  /// time. `name` is for the log.
  ConnectionThreads(std::string name, UniqueFd listener, unsigned count,
                    std::function<void(const UniqueFd& connection)> answer);
  /// Takes as long as the last answer.
  ~ConnectionThreads();

 private:
  void serve(const std::stop_token& stop);

  const std::string name_;
  const UniqueFd listener_;
  const std::function<void(const UniqueFd&)> answer_;
  std::vector<std::jthread> threads_;
};

}  // namespace thaw
