#include "pageserver/sys/core_follower.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace thaw {

namespace {

constexpr std::chrono::milliseconds kLookInterval{2};
/// For each wake-up: less than what one on another CPU costs. Also as an ordinary thread: where
/// those queue, one in the background class would starve.
constexpr std::chrono::microseconds kTolerableQueueing{20};
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
  look(now);
  if (at_ && queues_) {
    let_go();
    free_until_ = now + pause_;
    pause_ = std::min<Nanoseconds>(pause_ * 2, kLongestPause);
  }
  const bool steady = std::exchange(seen_, cpu) == cpu;
  if (queues_ || now < free_until_ || !steady || at_ == cpu) return;
  if (allowed_[static_cast<std::size_t>(*cpu)]) move(*cpu);
}

void CoreFollower::look(Clock::time_point now) {
  if (now - looked_ < kLookInterval) return;
  const auto times = thread_times(thread_);
  if (!times) return;
  const Nanoseconds queued = times->queued - std::exchange(queued_, times->queued);
  const std::uint64_t wakeups = wakeups_ - std::exchange(wakeups_seen_, wakeups_);
  looked_ = now;
  queues_ = queued > kTolerableQueueing * wakeups;
  if (at_ && !queues_) pause_ = std::max<Nanoseconds>(pause_ - pause_ / 16, kShortestPause);
}

void CoreFollower::move(int cpu) {
  CpuSet only;
  only.set(static_cast<std::size_t>(cpu));
  if (!set_allowed_cpus(0, only)) return;
  if (!at_ && from_ == WorkFrom::kThisHost &&
      !set_scheduling_class(0, SchedulingClass::kBackground)) {
    return let_go();
  }
  at_ = cpu;
}

void CoreFollower::let_go() {
  // The class first: with it the thread is not at others' mercy any more.
  static_cast<void>(set_scheduling_class(0, SchedulingClass::kNormal));
  static_cast<void>(set_allowed_cpus(0, allowed_));
  at_.reset();
}

}  // namespace thaw
