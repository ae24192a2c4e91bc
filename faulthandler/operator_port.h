#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/http_port.h"
#include "base/unique_fd.h"
#include "format/control.h"

namespace thaw {

/// What operators and their programs see of a handler by HTTP. /metrics asks the handler's loop,
/// once in limits::kOperatorInterval however many clients ask. /healthz does not wait for the loop,
/// so that a liveness probe is answered while the loop is busy.
class OperatorPort {
 public:
  /// On threads of the port. A listener that cannot be had is told of once and tried again: a
  /// process that goes may still have the address, or its name not be known.
  struct Calls {
    std::function<Result<UniqueFd>()> listen;
    std::function<ControlReply()> report;
    std::function<HttpPage()> health;  // without waiting
  };
  explicit OperatorPort(Calls calls);
  /// Takes as long as the last call.
  ~OperatorPort() = default;

 private:
  void open(const std::stop_token& stop);
  HttpPage metrics();

  const Calls calls_;
  std::mutex mutex_;
  std::optional<ControlReply> report_;  // guarded by mutex_, as what follows
  Clock::time_point stale_at_{};        // of the report
  std::unique_ptr<HttpPort> port_;      // the thread's, as long as that runs
  std::jthread opening_;
};

}  // namespace thaw
