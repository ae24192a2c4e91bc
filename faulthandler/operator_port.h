#pragma once

#include <memory>
#include <thread>

#include "base/http.h"
#include "base/socket.h"
#include "faulthandler/daemon.h"

namespace thaw {

/// What operators and their programs see of a handler by HTTP: /metrics and /healthz. VMs come
/// first: while the address cannot be listened on, which is told of once, it is tried again, since
/// a process that goes may still have it.
class OperatorPort {
 public:
  /// `daemon` must outlive it.
  OperatorPort(const TcpAddress& address, Daemon& daemon);
  /// Takes as long as the last answer.
  ~OperatorPort() = default;

 private:
  void open(const std::stop_token& stop, const TcpAddress& address, Daemon& daemon);

  std::unique_ptr<HttpPort> port_;  // the thread's, as long as that runs
  std::jthread opening_;
};

}  // namespace thaw
