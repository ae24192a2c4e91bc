#pragma once

#include <chrono>

#include "pageserver/credible_time.h"

namespace thaw::test {

/// A host's clocks, which a test sets.
struct SetClocks {
  ClockReading now{std::chrono::milliseconds(1'800'000'000'000), {}};  // 2027

  CredibleTime::Source source() {
    return [this] { return now; };
  }
  /// Time passes, and both clocks run.
  void pass(std::chrono::milliseconds time) {
    now.wall += time;
    now.monotonic += time;
  }
  /// The wall clock is set to another time.
  void shift(std::chrono::milliseconds by) { now.wall += by; }
  std::uint64_t wall_unix_ms() const { return static_cast<std::uint64_t>(now.wall.count()); }
};

}  // namespace thaw::test
