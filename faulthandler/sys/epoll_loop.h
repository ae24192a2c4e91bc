#pragma once

#include <memory>

#include "base/error.h"
#include "faulthandler/loop.h"

namespace thaw {

/// A Loop on epoll(7), for kernels and containers that do not let this process use io_uring.
Result<std::unique_ptr<Loop>> create_epoll_loop();

}  // namespace thaw
