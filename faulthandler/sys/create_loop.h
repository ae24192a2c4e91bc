#pragma once

#include <memory>

#include "base/error.h"
#include "faulthandler/loop.h"

namespace thaw {

/// The best Loop this process can have: io_uring, else epoll and a warning that says why.
Result<std::unique_ptr<Loop>> create_loop();

}  // namespace thaw
