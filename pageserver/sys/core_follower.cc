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
      pause_(kShortestPause) {
  if (class_ != SchedulingClass::kBackground || !may_follow_ || !place_.has_choice()) return;
  auto watch = BackgroundWatch::start(thread_);
  if (watch) {
    watch_ = *std::move(watch);
  } else {
    may_follow_ = false;
  }
}

void CoreFollower::follow(std::optional<int> cpu) {
  if (!may_follow_ || !place_.has_choice() || !cpu) return;
  const auto now = Clock::now();
  look(now);
  if (place_.cpu() && queues_) pause(now);
  const bool steady = std::exchange(seen_, cpu) == cpu;
  if (queues_ || now < free_until_ || !steady || place_.cpu() == cpu) return;
  if (place_.allows(*cpu) && place_.move(*cpu, class_) && watch_) watch_->begin();
}

void CoreFollower::return_from_background() {
  if (watch_->starved()) return pause(Clock::now());
  let_go();
}

void CoreFollower::pause(Clock::time_point now) {
  let_go();
  free_until_ = now + pause_;
  pause_ = std::min<Nanoseconds>(pause_ * 2, kLongestPause);
}

void CoreFollower::let_go() {
  place_.let_go();
  if (watch_) watch_->end();
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
