#pragma once

#include <cstddef>

#include "base/types.h"

namespace thaw {

/// What a store may take of its surroundings.
struct StoreLimits {
  /// New content is refused that would leave less on the file system.
  ByteCount min_free{0};
  /// Table files that may be open at one time, a descriptor each; one that is not is opened again
  /// when it is read.
  std::size_t open_tables = 1u << 16;
};

}  // namespace thaw
