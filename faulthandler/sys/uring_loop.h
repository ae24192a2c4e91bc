#pragma once

#include <memory>

#include "base/error.h"
#include "faulthandler/loop.h"

namespace thaw {

/// A Loop on io_uring. kPermission or kIo where the kernel does not let this process use it.
Result<std::unique_ptr<Loop>> create_uring_loop();

}  // namespace thaw
