#pragma once

#include <array>
#include <string>
#include <vector>

namespace thaw::bench {

/// Where guest, fault handler and page server run, and how the handler waits.
struct Placement {
  enum class Waiting { kSleeping, kSpinning };

  const char* name;
  unsigned guest_cpu;
  unsigned handler_cpu;
  unsigned server_cpu;
  Waiting waiting;
};

/// CPUs that the placements need, from 0.
inline constexpr unsigned kPlacementCpus = 2;
/// Longer than a fault, so that a spinning handler never sleeps between two.
inline constexpr unsigned kSpinMicroseconds = 1000;

inline constexpr std::array kPlacements{
    Placement{"near", 0, 0, 0, Placement::Waiting::kSleeping},
    Placement{"spin", 0, 1, 0, Placement::Waiting::kSpinning},
    Placement{"sleep", 0, 1, 0, Placement::Waiting::kSleeping},
};

/// The flags that give a fault handler its place, without fault-around.
inline std::vector<std::string> handler_flags(const Placement& placement) {
  const bool spins = placement.waiting == Placement::Waiting::kSpinning;
  return {"--placement", std::to_string(placement.handler_cpu),
          "--spin-us",   std::to_string(spins ? kSpinMicroseconds : 0),
          "--around",    "1"};
}

}  // namespace thaw::bench
