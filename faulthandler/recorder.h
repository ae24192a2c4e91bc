#pragma once

#include <vector>

#include "base/clock.h"
#include "base/types.h"
#include "format/recording.h"

namespace thaw {

/// Notes what a restored guest touches during a window: from its start until nothing was touched
/// first for a while, and no longer than some time. A VM that was loaded paused has a prelude, what
/// its VMM touches while it loads; the window begins when the guest runs. Allocates when it begins
/// and never after. One thread.
class Recorder {
 public:
  struct Window {
    Nanoseconds idle{0};
    Nanoseconds most{0};
  };

  Recorder(Window window, PageCount memory) : window_(window), memory_(memory) {}

  /// The window begins, or begins anew as long as nothing was noted.
  void start(Clock::time_point now);
  bool running() const { return running_; }
  /// A page was touched, or brought. Nothing when it is not running; the window ends early when
  /// there is no room for more.
  void note(PageIndex page, TouchKind kind, Clock::time_point now);
  /// When the window ends unless more is touched until then. REQUIRES: running().
  Clock::time_point end() const;
  Clock::time_point started() const { return start_; }
  void stop() { running_ = false; }

  /// The guest has not run yet: what was noted is a prelude, which counts as touched at the
  /// beginning of the window. That is the next touch. REQUIRES: running().
  void note_prelude();
  /// Whether nothing but a prelude was noted.
  bool in_prelude() const { return in_prelude_; }

  /// What was noted, also when it has been taken.
  std::size_t count() const { return count_; }
  std::vector<Touch> take() { return std::move(touches_); }

 private:
  const Window window_;
  const PageCount memory_;
  bool running_ = false;
  bool in_prelude_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
  std::vector<Touch> touches_;
  std::size_t count_ = 0;
};

}  // namespace thaw
