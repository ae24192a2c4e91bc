#pragma once

#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"

namespace thaw {

struct MemoryImageStatistics {
  ByteCount data;
  ByteCount zero;
};

/// Writes memory as a raw image that appears whole or not at all: a hole for each page of zeros.
/// Several threads look for those. REQUIRES: whole pages, and nobody writes to the memory.
Result<MemoryImageStatistics> write_memory_image(ByteSpan memory, const std::string& path);

}  // namespace thaw
