#pragma once

#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"

namespace thaw {

/// A thread that runs `body`. kLimitExceeded when the system allows no more of them.
template <typename Body>
Result<std::jthread> start_thread(Body body) {
  try {
    return std::jthread(std::move(body));
  } catch (const std::system_error& error) {
    return std::unexpected<Error>(std::in_place, ErrorCode::kLimitExceeded,
                                  "no thread can be started", error.code().value());
  }
}

/// Calls `act`, which returns a Result. kLimitExceeded or kNoMemory when it needs a thread or
/// memory that the system does not give, of which the standard library tells by exceptions.
template <typename Act>
auto within_limits(Act act) -> decltype(act()) {
  try {
    return act();
  } catch (const std::system_error& error) {
    return std::unexpected<Error>(std::in_place, ErrorCode::kLimitExceeded,
                                  "no thread can be started", error.code().value());
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kNoMemory, "this process may have no more memory");
  }
}

}  // namespace thaw
