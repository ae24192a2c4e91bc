#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace thaw {

/// One part of a restore.
struct RestorePhase {
  std::string_view name;  // a literal
  std::uint64_t us;
};

/// Whether the shell was there before the restore was asked for.
enum class ShellOrigin { kPooled, kOnDemand };

/// Where the time of a restore went: phases that follow one another without a gap.
struct RestoreProfile {
  ShellOrigin origin;
  std::vector<RestorePhase> phases;

  /// Of all phases with this name; nothing when there was none.
  std::optional<std::uint64_t> us_of(std::string_view name) const;
  std::uint64_t total_us() const;
};

/// Cuts a restore into phases. One thread.
class PhaseTimer {
 public:
  /// Ends the phase before. REQUIRES: the name is a literal. The port's names: "memory" (mapped and
  /// registered), "vm", "vcpus", "handover" or "contents" (of memory), "state".
  void begin(std::string_view name);
  /// Ends the last phase and gives away all of them.
  std::vector<RestorePhase> finish();

 private:
  void end_last();

  Clock::time_point since_;
  std::vector<RestorePhase> phases_;
};

}  // namespace thaw
