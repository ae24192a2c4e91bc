#pragma once

#include "base/bytes.h"
#include "base/error.h"

namespace thaw {

/// Fills all of it with bytes that nobody can foretell, from the kernel.
Result<void> fill_random(MutableByteSpan to);

}  // namespace thaw
