#pragma once

#include <chrono>
#include <cstdint>
#include <stop_token>

namespace thaw {

/// The only clock for waits and latencies: monotonic, unaffected by adjustments of wall time.
using Clock = std::chrono::steady_clock;
using Nanoseconds = std::chrono::nanoseconds;

/// A point in time by which something must have happened. A value; freely copied.
class Deadline {
 public:
  static Deadline after(Nanoseconds duration) { return Deadline(Clock::now() + duration); }

  bool passed() const { return Clock::now() >= when_; }
  /// What is left, rounded up to whole milliseconds as poll(2) wants it; 0 when passed.
  int milliseconds_left() const;
  Clock::time_point when() const { return when_; }

 private:
  explicit Deadline(Clock::time_point when) : when_(when) {}
  Clock::time_point when_;
};

/// Sleeps so long, or until it shall stop.
void rest(const std::stop_token& stop, Nanoseconds time);

/// Milliseconds since 1970 for timestamps that people read; never for measuring.
std::uint64_t unix_milliseconds();

}  // namespace thaw
