#pragma once

#include <algorithm>
#include <span>

#include "base/clock.h"
#include "base/queue_time.h"
#include "base/userfaultfd.h"
#include "faulthandler/limits.h"

namespace thaw {

/// Makes calls on slow memory in their order, each by `make(call)`, whose result stays in it. What
/// is in the way of one is in the way of all: the rest is not made then. Returns how long the
/// longest took, for CallAccount. On the thread of the memory.
template <typename Call, typename Make>
Nanoseconds make_slow_calls(std::span<Call> calls, Make make) {
  Nanoseconds longest{0};
  for (Call& call : calls) {
    const auto begun = Clock::now();
    call.result = make(call);
    const Nanoseconds took = Clock::now() - begun;
    if (took > limits::kFairCall) longest = std::max(longest, without_queue_time(took));
    if (is_hindered(call.result)) break;
  }
  return longest;
}

}  // namespace thaw
