#pragma once

#include "base/clock.h"

namespace thaw {

/// Whether a loop goes on looking for completions where it would otherwise sleep. One thread.
class Spin {
 public:
  void set(Nanoseconds duration) { duration_ = duration; }
  /// Something completed.
  void restart() {
    if (duration_ > Nanoseconds(0)) until_ = Clock::now() + duration_;
  }
  bool active() const { return duration_ > Nanoseconds(0) && Clock::now() < until_; }

 private:
  Nanoseconds duration_{0};
  Clock::time_point until_{};
};

}  // namespace thaw
