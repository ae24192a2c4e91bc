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
  const auto try_to_open = [this]() -> Result<void> {
    port_ = TRY(HttpPort::open(
        TRY(calls_.listen()),
        HttpPages{{"/metrics", {[this] { return metrics(); }, HttpSource::Takes::kMayWait}},
                  {"/healthz", {calls_.health, HttpSource::Takes::kNoTime}}}));
    return {};
  };
  auto opened = try_to_open();
  if (!opened) log_error("no /metrics yet: {}", opened.error().message());
  while (!opened && !stop.stop_requested()) {
    rest(stop, limits::kAcceptPauseMost);
    opened = try_to_open();
  }
}

HttpPage OperatorPort::metrics() {
  const std::lock_guard lock(mutex_);
  if (!report_ || Clock::now() >= stale_at_) {
    report_ = calls_.report();
    stale_at_ = Clock::now() + limits::kOperatorInterval;
  }
  return metrics_page(*report_);
}

}  // namespace thaw
