#pragma once

#include "base/clock.h"

namespace thaw {

/// How much of `took`, the duration of what the calling thread has just done, was surely no wait in
/// a queue for a CPU. All that the thread has waited in queues since its call before is taken off,
/// so of several durations the first may be told as too short. Neither allocates nor locks.
Nanoseconds without_queue_time(Nanoseconds took);

}  // namespace thaw
