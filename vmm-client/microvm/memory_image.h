#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"

namespace thaw {

struct MemoryImageStatistics {
  ByteCount data;
  ByteCount holes;
};

/// Writes memory as a raw image that appears whole or not at all: a hole for each page of zeros, or
/// if it is told which pages have `changed`, for each of the others, at which it does not look.
/// Several threads do this. REQUIRES: whole pages, and nobody writes to the memory.
Result<MemoryImageStatistics> write_memory_image(ByteSpan memory, const std::string& path,
                                                 const std::vector<bool>& changed = {});

}  // namespace thaw
