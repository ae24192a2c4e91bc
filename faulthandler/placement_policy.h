#pragma once

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
class PlacementPolicy {
 public:
  /// What was seen since the last look.
  struct Look {
    Clock::time_point now;
    bool faults = false;         // some were read
    bool other_vm = false;       // not from the VM of the look before
    std::optional<int> hot_cpu;  // where nearly all of the VM's wake-ups were, if there is such
    Nanoseconds queued{0};       // how long the loop was ready and did not run
  };
  struct Decision {
    std::optional<int> cpu;  // follow the faults there; nothing: anywhere, as a normal thread
    bool spin = false;       // instead of sleeping at once
    friend bool operator==(const Decision&, const Decision&) = default;
  };

  Decision decide(const Look& look);
  /// A VM begins: the time in which spinning pays.
  void on_restore(Clock::time_point now) { restored_ = now; }

 private:
  std::optional<int> at_;
  std::optional<Clock::time_point> restored_;
  Clock::time_point free_until_{};
  Nanoseconds pause_{0};
};

}  // namespace thaw
