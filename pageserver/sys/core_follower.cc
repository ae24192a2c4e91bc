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

}  // namespace

CoreFollower::CoreFollower(WorkFrom from, const BulkWork& bulk)
    : bulk_(bulk),
      class_(from == WorkFrom::kThisHost ? SchedulingClass::kBackground : SchedulingClass::kNormal),
      thread_(this_thread_id()),
      may_follow_(from == WorkFrom::kElsewhere || may_leave_background()),
      place_(thread_),
      pause_(kShortestPause) {}

void CoreFollower::follow(std::optional<int> cpu) {
  if (!may_follow_ || !place_.has_choice() || !cpu) return;
  const auto now = Clock::now();
  look(now);
  if (place_.cpu() && queues_) {
    place_.let_go();
    free_until_ = now + pause_;
    pause_ = std::min<Nanoseconds>(pause_ * 2, kLongestPause);
  }
  const bool steady = std::exchange(seen_, cpu) == cpu;
  if (queues_ || now < free_until_ || !steady || place_.cpu() == cpu) return;
  if (place_.allows(*cpu)) static_cast<void>(place_.move(*cpu, class_));
}

void CoreFollower::look(Clock::time_point now) {
  if (now - looked_ < kLookInterval) return;
  const auto times = thread_times(thread_);
  if (!times) return;
  const Nanoseconds queued = times->queued - std::exchange(queued_, times->queued);
  const std::uint64_t wakeups = wakeups_ - std::exchange(wakeups_seen_, wakeups_);
  looked_ = now;
  queues_ = queued > kTolerableQueueing * wakeups;
  if (place_.cpu() && !queues_)
    pause_ = std::max<Nanoseconds>(pause_ - pause_ / 16, kShortestPause);
}

}  // namespace thaw
