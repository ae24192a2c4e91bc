#pragma once

#include <vector>

#include "base/error.h"
#include "bench/fault_bench.h"
#include "bench/report.h"

namespace thaw::bench {

/// Measures restores that share this host's image of their snapshot: the second one beside memory
/// that is all there, and the memory of eight beside eight that map a local file. Any byte that is
/// wrong in a guest is a failure.
Result<std::vector<Figure>> run_shared_bench(const BenchOptions& options);

}  // namespace thaw::bench
