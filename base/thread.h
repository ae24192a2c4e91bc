#pragma once

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

}  // namespace thaw
