#pragma once

#include <cstdint>
#include <optional>

#include <sys/types.h>

#include "base/clock.h"

namespace thaw {

/// Decides where the loop's thread runs and whether it spins, from what was seen of it and of the
/// VMs: the rules, without system calls. One thread.
///
/// A vCPU that faults leaves its CPU idle. A loop that sleeps on that very CPU answers in a fifth
/// of the time that one on another CPU needs, because nobody has to interrupt an idle CPU, twice.
/// So while the faults come from one CPU the loop goes there, in the background class: the
/// scheduler then still counts that CPU as idle and leaves the vCPU on it. When several CPUs fault,
/// or the loop has to queue for the CPU that it follows, it is let go for a while.
///
/// Spinning is for a VM that has just begun and that the loop does not follow because its faults
/// come from several CPUs, or because it may not; and for a CPU that nobody else wants.
class PlacementPolicy {
 public:
  /// What was seen since the last look.
  struct Look {
    Clock::time_point now;
    std::uint64_t faults = 0;    // times that some were read
    bool other_vm = false;       // not from the VM of the look before
    bool examined = false;       // whether hot_cpu was looked for
    std::optional<int> hot_cpu;  // where nearly all of the VM's wake-ups were, if there is such
    Nanoseconds queued{0};       // how long the loop was ready and did not run
    bool starves = false;        // it is ready, and has not run since the look before
  };
  struct Decision {
    std::optional<int> cpu;  // follow the faults there; nothing: anywhere, as a normal thread
    bool spin = false;       // instead of sleeping at once
    friend bool operator==(const Decision&, const Decision&) = default;
  };

  enum class May { kFollow, kSpinAlone };
  explicit PlacementPolicy(May may) : may_(may) {}

  Decision decide(const Look& look);
  /// A VM begins: the time in which spinning pays.
  void on_restore(Clock::time_point now) { restored_ = now; }

 private:
  May may_;
  std::optional<int> at_;
  bool spread_ = false;  // faults came from several CPUs
  std::optional<Clock::time_point> restored_;
  Clock::time_point free_until_{};
  Nanoseconds pause_{0};
};

}  // namespace thaw
