#pragma once

#include <span>

#include "format/chunk.h"
#include "format/pack.h"

namespace thaw {

/// What a page server has brought damaged. The spans are the caller's.
struct Damage {
  std::span<const ChunkId> chunks{};
  std::span<const PackId> packs{};
};

}  // namespace thaw
