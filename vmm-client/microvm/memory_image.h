#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

struct MemoryImageStatistics {
  ByteCount data;
  ByteCount holes;
  std::uint64_t content = 0;  // names all of memory; 0 where only changes were looked at
};

/// Writes memory as a raw image into an empty file: a hole for each page of zeros, or if it is told
/// which pages have `changed`, for each of the others, at which it does not look. Several threads
/// do this. REQUIRES: whole pages, and nothing writes to the memory.
Result<MemoryImageStatistics> write_memory_image(ByteSpan memory, const UniqueFd& file,
                                                 const std::vector<bool>& changed = {});

}  // namespace thaw
