#pragma once

#include <array>
#include <cstdint>

#include "base/limits.h"
#include "base/userfaultfd.h"
#include "faulthandler/limits.h"

namespace thaw {

/// Where the events of a userfaultfd are read to. It lies in memory that outlives the process, for
/// the kernel hands an event out once: whoever reads a REMOVE and dies has taken it from everybody.
/// A batch counts as applied when all its changes have taken effect; until then whoever comes next
/// applies them (once more).
struct EventJournal {
  std::uint64_t batch = 0;    // number of the one in `events`, which is there or being read
  std::uint64_t applied = 0;  // number of the last one that has taken effect
  /// All zeros behind what was read.
  std::array<RawEvent, limits::kMaxEventReads * limits::kUserfaultfdEventsPerRead> events{};
};

}  // namespace thaw
