#pragma once

#include <vector>

#include "base/error.h"
#include "bench/fault_bench.h"
#include "bench/report.h"

namespace thaw::bench {

/// Measures restores of saved guests whose working sets were made of recordings, each judged on a
/// recording that is not among them; beside restores without prefetch, after a download, over
/// nbdkit and nbdfuse, and from a local file; over several links. Any byte that is wrong in a guest
/// is a failure.
Result<std::vector<Figure>> run_restore_bench(const BenchOptions& options);

}  // namespace thaw::bench
