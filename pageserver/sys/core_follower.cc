#include "pageserver/sys/core_follower.h"

#include <algorithm>
#include <chrono>

namespace thaw {

namespace {

/// About what a wake-up on another CPU costs.
constexpr std::chrono::microseconds kTolerableQueueing{50};
constexpr std::chrono::milliseconds kShortestPause{100};
constexpr std::chrono::seconds kLongestPause{10};

bool is_cpu(int cpu) { return cpu >= 0 && static_cast<std::size_t>(cpu) < kMaxCpus; }

}  // namespace

CoreFollower::CoreFollower() : thread_(this_thread_id()), pause_(kShortestPause) {
  if (auto allowed = allowed_cpus(0)) allowed_ = *allowed;
}

void CoreFollower::follow(std::optional<int> cpu) {
  if (allowed_.count() < 2 || !cpu || !is_cpu(*cpu)) return;
  const auto now = Clock::now();
  if (now < free_until_) return;
  const auto total = time_queued(thread_);
  if (!total) return;
  const Nanoseconds queued = *total - queued_;
  queued_ = *total;
  if (at_ && queued > kTolerableQueueing * kWakeupsPerLook) {
    let_go();
    free_until_ = now + pause_;
    pause_ = std::min<Nanoseconds>(pause_ * 2, kLongestPause);
    return;
  }
  if (at_ == cpu || !allowed_[static_cast<std::size_t>(*cpu)]) return;
  CpuSet only;
  only.set(static_cast<std::size_t>(*cpu));
  if (set_allowed_cpus(0, only)) at_ = cpu;
}

void CoreFollower::let_go() {
  if (set_allowed_cpus(0, allowed_)) at_.reset();
}

}  // namespace thaw
