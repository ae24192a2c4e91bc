#pragma once

#include <cstddef>

#include "base/error.h"
#include "bench/placement.h"

namespace thaw::bench {

/// One operation of a floor, in microseconds: the median of the time it takes, and the CPU time it
/// costs on either side.
struct FloorSample {
  double us = 0;
  double own_cpu_us = 0;   // of the side that stands for the fault handler
  double peer_cpu_us = 0;  // of the guest (F1), of the server (F2)
};

/// F1: a thread touches missing pages of its own process; another reads each event and answers
/// with a copy of one warm page.
Result<FloorSample> measure_fault(const Placement& placement, std::size_t repetitions);

/// F2: a request of 32 bytes to another process, and its reply of 1,400, over TCP on loopback.
Result<FloorSample> measure_request(const Placement& placement, std::size_t repetitions);

/// F4: microseconds a page that UFFDIO_COPY takes in runs of 16, waking nobody.
Result<double> measure_copies(std::size_t pages);

}  // namespace thaw::bench
