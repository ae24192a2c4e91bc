#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>

#include "base/clock.h"

namespace thaw {

/// What both clocks say at one moment.
struct ClockReading {
  std::chrono::milliseconds wall;  // since 1970, maybe wrong
  Clock::time_point monotonic;
};
/// Of this host's clocks.
ClockReading read_clocks();

/// A host's wall clock can be years wrong for a moment: before NTP has set it, after a battery has
/// failed, or by mistake. What a wrong clock causes to be deleted is lost.
///
/// This class keeps the credible time, which never goes back. The monotonic clock moves it on, and
/// the wall clock only while both agree. If they come apart by more than limits::kClockTolerance,
/// that is a jump: the log gets a warning, and the wall clock counts for nothing until both have
/// agreed for limits::kClockSettling. After a start its time is taken for snapshots, unless it is
/// further than limits::kLongestStop from what the store knows, but its settling begins anew.
///
/// Jumps are noticed when any method is called. Any thread.
class CredibleTime {
 public:
  using Source = std::function<ClockReading()>;
  explicit CredibleTime(Source source = read_clocks);

  /// Goes on from the largest time that the store knows; 0: none. REQUIRES: no other call before.
  void begin(std::uint64_t known_unix_ms);

  /// The credible time, never less than a time returned before; for what is stored. As long as
  /// none since limits::kEarliestTime is known, the wall clock's if that is later.
  std::uint64_t now_unix_ms();
  /// The largest time that was returned by now_unix_ms() or confirmed by a settled wall clock,
  /// moved on until now; 0: none.
  std::uint64_t known_unix_ms();

  struct Wall {
    std::uint64_t unix_ms;
    bool settled;  // whether both clocks have agreed for a day
  };
  Wall wall();

 private:
  Wall look(const ClockReading& now);

  const Source source_;
  std::mutex mutex_;
  std::chrono::milliseconds known_{0};  // guarded by mutex_, as all that follows; 0: none
  Clock::time_point moved_;             // until when known_ was moved on
  ClockReading agreed_;                 // since then both clocks have agreed
  bool doubtful_ = false;               // the wall clock has jumped and not settled since
};

}  // namespace thaw
