#pragma once

#include <memory>

#include "base/error.h"
#include "faulthandler/loop.h"

namespace thaw {

/// A Loop on io_uring. kPermission or kIo where the kernel does not let this process use it.
///
/// `features` is what is tried first: without those of Linux 6.1 it is slower and does the same.
enum class RingFeatures { kLinux61, kOlder };
Result<std::unique_ptr<Loop>> create_uring_loop(RingFeatures features);

}  // namespace thaw
