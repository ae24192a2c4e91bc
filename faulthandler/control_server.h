#pragma once

#include <string>

#include "base/connection_threads.h"
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
  void answer(const UniqueFd& connection) const;

  const std::string path_;
  Daemon& daemon_;
  ConnectionThreads threads_;
};

}  // namespace thaw
