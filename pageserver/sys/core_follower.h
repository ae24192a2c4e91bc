#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/background_watch.h"
#include "base/clock.h"
#include "base/cpu.h"

namespace thaw {

/// When the server last prefetched for anybody. Any thread.
class BulkWork {
 public:
  void note() { last_.store(Clock::now(), std::memory_order_relaxed); }
  bool recent() const { return Clock::now() - last_.load(std::memory_order_relaxed) < kRecent; }

 private:
  static constexpr std::chrono::milliseconds kRecent{1000};
  std::atomic<Clock::time_point> last_{};
};

/// Moves the calling thread to the CPU that its work comes from: waking it up there needs no
/// interrupt to another CPU, which is most of the time a small request takes. Where the thread has
/// to queue for that CPU it is let go, for longer each time. One thread, the one that it moves.
///
/// Work from this host comes from a fault handler on the CPU of a vCPU that waits. There the thread
/// runs in the background class, like the fault handler itself: the scheduler then counts the CPU
/// as idle when it wakes up the vCPU, and leaves it there. Beside bulk work it would starve, so it
/// does not follow then. Where something else wants the CPU, BackgroundWatch gets it out.
class CoreFollower {
 public:
  enum class WorkFrom { kThisHost, kElsewhere };
  CoreFollower(WorkFrom from, const BulkWork& bulk);

  /// To be called once per wake-up; `source()` gives the CPU that it came from, and is asked now
  /// and then.
  template <typename Source>
  void on_wakeup(Source source) {
    if (bulk_.recent()) return stay_away();
    if (was_taken_out()) return return_from_background();
    if (++wakeups_ % kWakeupsPerQuestion == 0) follow(source());
  }

 private:
  static constexpr std::uint64_t kWakeupsPerQuestion = 4;

  void follow(std::optional<int> cpu);
  void stay_away() {
    if (place_.cpu()) let_go();
  }
  bool was_taken_out() const { return watch_ && place_.cpu() && !watch_->watching(); }
  void return_from_background();
  /// Lets the thread go, for longer each time.
  void pause(Clock::time_point now);
  void let_go();
  /// Every now and then, finds out whether the thread queues.
  void look(Clock::time_point now);

  const BulkWork& bulk_;
  const SchedulingClass class_;  // where it follows
  const pid_t thread_;
  bool may_follow_;
  ThreadPlace place_;
  std::unique_ptr<BackgroundWatch> watch_;  // nullptr: never in the background class
  std::optional<int> seen_;                 // at the last wake-up
  std::uint64_t wakeups_ = 0;
  Clock::time_point looked_;
  std::uint64_t wakeups_seen_ = 0;  // until then
  bool queues_ = false;
  Nanoseconds queued_{0};  // until then
  Nanoseconds pause_;
  Clock::time_point free_until_;
};

}  // namespace thaw
