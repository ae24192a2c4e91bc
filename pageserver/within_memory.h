#pragma once

#include <new>

#include "base/error.h"
#include "base/memory_reserve.h"

namespace thaw {

/// Calls `act`, which returns a Result. kLimitExceeded when this process gets no more memory, so
/// that one peer's request is refused instead of all peers losing their server.
///
/// REQUIRES: `act` does not use the store: an exception that passes through RocksDB leaves its
/// locks and references as they are.
template <typename Act>
auto within_memory(Act act) -> decltype(act()) {
  const AllocationsMayFail here;
  try {
    if (here.has_reserve()) return act();
  } catch (const std::bad_alloc&) {
    // Refused like all that come before there is memory again.
  }
  return fail(ErrorCode::kLimitExceeded, "the page server gets no more memory");
}

}  // namespace thaw
