#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench/report.h"

namespace thaw::bench {

enum class Effort { kFull, kQuick };

struct BenchOptions {
  std::string image;   // memory image of a real guest
  std::string guests;  // directory of saved guests with recordings
  std::string cache;   // where large stores are kept for the next run; empty: nowhere
  std::uint64_t seed = 0;
  Effort effort = Effort::kFull;
  std::size_t repetitions = 0;  // 0: as many as the effort says
  unsigned minutes = 5;         // of what goes on for a time
};

/// Measures faults of guests that restore from real programs: their times in each placement, their
/// rate, what fault-around brings, many sessions at once. Any byte that is wrong in a guest is a
/// failure, and so is an image of too few pages.
Result<std::vector<Figure>> run_fault_bench(const BenchOptions& options);

}  // namespace thaw::bench
