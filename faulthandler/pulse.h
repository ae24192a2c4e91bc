#pragma once

#include <functional>
#include <optional>

#include <sys/types.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/unique_fd.h"
#include "faulthandler/loop.h"

namespace thaw {

/// A handler's loop that stands still is as bad as one that is dead, and looks alive. Its
/// supervisor asks it for a turn again and again through an eventfd, which the loop clears
/// (PulseAnswer).

/// Adds up for how long a thread that was asked for a turn has had the chance and made none. It
/// knows neither clock nor process.
class StallClock {
 public:
  /// What is seen of the thread.
  struct Sight {
    bool answered;
    Clock::time_point at;
    ThreadProgress progress;
  };
  /// `interval`: the time between two looks that are in time. What is beyond it counts for nothing:
  /// the one who looks did not run either.
  explicit StallClock(Nanoseconds interval) : interval_(interval) {}

  /// For how long it has stood still by now. A thread that is ready and gets no CPU stands in a
  /// queue, and one that a debugger holds is meant to.
  Nanoseconds look(const Sight& sight);

 private:
  const Nanoseconds interval_;
  Nanoseconds stalled_{0};
  std::optional<Sight> before_;
};

/// The supervisor's side, of one handler. On the loop's thread.
class PulseWatch {
 public:
  /// `event`: an eventfd that the handler has a duplicate of. `on_stall` is called once, with how
  /// long it has been, when the process has stood still for `patience`; and never again.
  PulseWatch(Loop& loop, UniqueFd event, pid_t process, Nanoseconds patience,
             std::function<void(Nanoseconds)> on_stall);
  PulseWatch(const PulseWatch&) = delete;
  PulseWatch& operator=(const PulseWatch&) = delete;

  void stop();
  /// Whether it may be destroyed, once it is stopped.
  bool finished() const { return !waiting_.active(); }

 private:
  void look();

  Loop& loop_;
  const UniqueFd event_;
  const pid_t process_;
  const Nanoseconds patience_;
  const std::function<void(Nanoseconds)> on_stall_;
  StallClock clock_;
  bool stopped_ = false;
  Operation waiting_{[this](int result) {
    if (result == -ETIME && !stopped_) look();
  }};
};

/// The handler's side: in place before the loop runs, and destroyed after it has.
class PulseAnswer {
 public:
  PulseAnswer(Loop& loop, UniqueFd event);

 private:
  void on_asked(int result);

  Loop& loop_;
  const UniqueFd event_;
  Operation asked_{[this](int result) { on_asked(result); }};
};

}  // namespace thaw
