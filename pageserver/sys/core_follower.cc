#include "pageserver/sys/core_follower.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace thaw {

namespace {

constexpr std::chrono::milliseconds kLookInterval{2};
/// For each wake-up: about what it costs on another CPU.
constexpr std::chrono::microseconds kTolerableQueueing{50};
constexpr std::chrono::milliseconds kShortestPause{10};
constexpr std::chrono::seconds kLongestPause{1};

bool is_cpu(int cpu) { return cpu >= 0 && static_cast<std::size_t>(cpu) < kMaxCpus; }

}  // namespace

CoreFollower::CoreFollower(WorkFrom from)
    : from_(from),
      thread_(this_thread_id()),
      may_follow_(from == WorkFrom::kElsewhere || may_leave_background()),
      pause_(kShortestPause) {
  if (auto allowed = allowed_cpus(0)) allowed_ = *allowed;
}

void CoreFollower::follow(std::optional<int> cpu) {
  if (!may_follow_ || allowed_.count() < 2 || !cpu || !is_cpu(*cpu)) return;
  const auto now = Clock::now();
  if (now < free_until_) return;
  if (at_ && queues(now)) {
    let_go();
    free_until_ = now + pause_;
    pause_ = std::min<Nanoseconds>(pause_ * 2, kLongestPause);
    return;
  }
  const bool steady = std::exchange(seen_, cpu) == cpu;
  if (steady && at_ != cpu && allowed_[static_cast<std::size_t>(*cpu)]) move(*cpu);
}

bool CoreFollower::queues(Clock::time_point now) {
  if (now - looked_ < kLookInterval) return false;
  const auto times = thread_times(thread_);
  if (!times) return false;
  const Nanoseconds queued = times->queued - std::exchange(queued_, times->queued);
  looked_ = now;
  const bool much =
      queued > kTolerableQueueing * (wakeups_ - std::exchange(wakeups_seen_, wakeups_));
  if (!much) pause_ = std::max<Nanoseconds>(pause_ / 2, kShortestPause);
  return much;
}

void CoreFollower::move(int cpu) {
  CpuSet only;
  only.set(static_cast<std::size_t>(cpu));
  if (!set_allowed_cpus(0, only)) return;
  if (at_) {
    at_ = cpu;
    return;
  }
  if (from_ == WorkFrom::kThisHost && !set_scheduling_class(0, SchedulingClass::kBackground)) {
    return let_go();
  }
  at_ = cpu;
  // Until now it was free: how it queued is nobody's fault.
  if (const auto times = thread_times(thread_)) queued_ = times->queued;
  looked_ = Clock::now();
  wakeups_seen_ = wakeups_;
}

void CoreFollower::let_go() {
  // The class first: with it the thread is not at others' mercy any more.
  static_cast<void>(set_scheduling_class(0, SchedulingClass::kNormal));
  static_cast<void>(set_allowed_cpus(0, allowed_));
  at_.reset();
}

}  // namespace thaw
