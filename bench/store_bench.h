#pragma once

#include <vector>

#include "base/error.h"
#include "bench/fault_bench.h"

namespace thaw::bench {

/// Measures the page server as a store: pushes of saved guests into an empty store, of known
/// images, of several at once; pulls; what all of it takes on the disk and in memory, beside other
/// tools; and single reads out of stores of many chunks. An image that comes back other than it
/// went is a failure.
Result<std::vector<Figure>> run_store_bench(const BenchOptions& options);

}  // namespace thaw::bench
