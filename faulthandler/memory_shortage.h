#pragma once

#include <algorithm>
#include <optional>

#include "base/clock.h"
#include "faulthandler/limits.h"

namespace thaw {

/// A time in which the kernel has no memory for what a guest waits for. Attempts come at growing
/// intervals, one at a time: each may make the kernel look for memory that it can reclaim. One
/// thread.
class MemoryShortage {
 public:
  bool active() const { return since_.has_value(); }
  /// An attempt has failed.
  void note(int error_number, Clock::time_point now) {
    ++failures_;
    error_number_ = error_number;
    if (!since_) {
      since_ = now;
      pause_ = limits::kMemoryRetryFirst;
    } else {
      pause_ = std::min<Nanoseconds>(pause_ * 2, limits::kMemoryRetryMost);
    }
  }
  /// One has gone through. Returns how long the shortage has lasted.
  Nanoseconds end(Clock::time_point now) {
    const auto since = since_.value_or(now);
    since_.reset();
    return now - since;
  }

  /// Until the next attempt.
  Nanoseconds pause() const { return pause_; }
  int error_number() const { return error_number_; }
  /// Attempts that have failed, ever.
  std::uint64_t failures() const { return failures_; }

 private:
  std::optional<Clock::time_point> since_;
  Nanoseconds pause_{0};
  int error_number_ = 0;
  std::uint64_t failures_ = 0;
};

}  // namespace thaw
