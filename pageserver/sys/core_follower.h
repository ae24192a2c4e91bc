#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "base/cpu.h"

namespace thaw {

/// Moves the calling thread to the CPU that its work comes from: waking it up there needs no
/// interrupt to another CPU, which is most of the time a small request takes. Where the thread has
/// to queue for that CPU it is let go, for longer each time. One thread, the one that it moves.
class CoreFollower {
 public:
  CoreFollower();

  /// To be called once per wake-up; `source()` gives the CPU, and is asked now and then.
  template <typename Source>
  void on_wakeup(Source source) {
    if (++wakeups_ % kWakeupsPerLook == 0) follow(source());
  }

 private:
  static constexpr std::uint64_t kWakeupsPerLook = 64;

  void follow(std::optional<int> cpu);
  void let_go();

  const pid_t thread_;
  CpuSet allowed_;  // as it was at the start
  std::optional<int> at_;
  std::uint64_t wakeups_ = 0;
  Nanoseconds queued_{0};
  Nanoseconds pause_;
  Clock::time_point free_until_;
};

}  // namespace thaw
