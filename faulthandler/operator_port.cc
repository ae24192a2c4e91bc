#include "faulthandler/operator_port.h"

#include <condition_variable>
#include <mutex>

#include "base/limits.h"
#include "base/log.h"
#include "faulthandler/metrics.h"

namespace thaw {

OperatorPort::OperatorPort(const TcpAddress& address, Daemon& daemon)
    : opening_(
          [this, address, &daemon](const std::stop_token& stop) { open(stop, address, daemon); }) {}

void OperatorPort::open(const std::stop_token& stop, const TcpAddress& address, Daemon& daemon) {
  std::mutex mutex;
  std::condition_variable_any pause;  // never told: it ends with the time or the thread
  std::unique_lock lock(mutex);
  auto listener = listen_tcp(address);
  if (!listener) log_error("no /metrics yet: {}", listener.error().message());
  while (!listener && !stop.stop_requested()) {
    pause.wait_for(lock, stop, limits::kAcceptPauseMost, [] { return false; });
    listener = listen_tcp(address);
  }
  if (!listener) return;
  const auto report = [&daemon] { return daemon.handle(control::List{}); };
  port_ = std::make_unique<HttpPort>(
      *std::move(listener), HttpPages{{"/metrics", [report] { return metrics_page(report()); }},
                                      {"/healthz", [report] { return health_page(report()); }}});
}

}  // namespace thaw
