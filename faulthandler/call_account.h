#pragma once

#include <algorithm>
#include <optional>

#include "base/clock.h"
#include "faulthandler/limits.h"

namespace thaw {

/// A VMM decides how long system calls on its memory take: other threads of it may hold its mmap
/// lock, or its cgroup may have to be reclaimed first. This adds up what one VM has cost the loop,
/// and says when its calls must be made elsewhere. It has no clock. One thread.
class CallAccount {
 public:
  /// A call on the memory, or a wait for one, took so long and ended now. True when the VM has
  /// become slow with it.
  bool note(Nanoseconds took, Clock::time_point now) {
    if (took <= limits::kFairCall) return false;
    if (slow_) {
      noted_ = now;
      return false;
    }
    owed_ = std::max(Nanoseconds(0), owed_ - (now - noted_) / limits::kSlowShare) + took;
    noted_ = now;
    return owed_ >= limits::kSlowBudget && begin(now);
  }
  /// The same where it is known already. False when it was slow before.
  bool begin(Clock::time_point now) {
    if (slow_) return false;
    const bool again = ended_ && now - *ended_ < limits::kSlowForgotten;
    quiet_ = again ? std::min<Nanoseconds>(quiet_ * 2, limits::kQuietMost)
                   : Nanoseconds(limits::kQuietFirst);
    slow_ = true;
    noted_ = now;
    owed_ = Nanoseconds(0);
    return true;
  }
  /// True when the VM was slow and no call has been for long enough.
  bool end_if_quiet(Clock::time_point now) {
    if (!slow_ || now - noted_ < quiet_) return false;
    slow_ = false;
    ended_ = now;
    return true;
  }
  bool slow() const { return slow_; }

 private:
  bool slow_ = false;
  Nanoseconds owed_{0};
  Clock::time_point noted_{};  // the last call that took long, or when it became slow
  Nanoseconds quiet_{limits::kQuietFirst};
  std::optional<Clock::time_point> ended_;
};

}  // namespace thaw
