#pragma once

#include <cstdint>
#include <string>

namespace thaw::sim {

/// What came of a run.
struct Outcome {
  std::string violation;  // empty: all was as it must be
  std::uint64_t trace_hash = 0;
  std::uint64_t steps = 0;
};

}  // namespace thaw::sim
