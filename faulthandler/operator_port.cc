#include "faulthandler/operator_port.h"

#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "faulthandler/limits.h"
#include "faulthandler/metrics.h"

namespace thaw {

OperatorPort::OperatorPort(Calls calls)
    : calls_(std::move(calls)), opening_([this](const std::stop_token& stop) { open(stop); }) {}

void OperatorPort::open(const std::stop_token& stop) {
  auto listener = calls_.listen();
  if (!listener) log_error("no /metrics yet: {}", listener.error().message());
  while (!listener && !stop.stop_requested()) {
    rest(stop, limits::kAcceptPauseMost);
    listener = calls_.listen();
  }
  if (!listener) return;
  port_ = std::make_unique<HttpPort>(*std::move(listener),
                                     HttpPages{{"/metrics", [this] { return page(metrics_page); }},
                                               {"/healthz", [this] { return page(health_page); }}});
}

HttpPage OperatorPort::page(HttpPage (*make)(const ControlReply&)) {
  const std::lock_guard lock(mutex_);
  if (!report_ || Clock::now() >= stale_at_) {
    report_ = calls_.report();
    stale_at_ = Clock::now() + limits::kOperatorInterval;
  }
  return make(*report_);
}

}  // namespace thaw
