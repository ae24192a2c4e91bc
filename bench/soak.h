#pragma once

#include <vector>

#include "base/error.h"
#include "bench/fault_bench.h"
#include "bench/report.h"

namespace thaw::bench {

/// Restores VMs of a fault handler without end, many at a time, in memory of their own and on a
/// host image, that read, write, give back and exit, while the handler, its page servers and VMMs
/// are killed, and snapshots are pushed, deleted and collected. A wrong byte in a guest or a VM
/// that is lost is a failure.
Result<std::vector<Figure>> run_soak_bench(const BenchOptions& options);

}  // namespace thaw::bench
