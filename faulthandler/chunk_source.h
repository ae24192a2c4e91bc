#pragma once

#include <optional>

#include "format/chunk.h"

namespace thaw {

/// Where the content of chunks may be at hand.
class ChunkSource {
 public:
  /// The plain page, verified; valid during the call that asked.
  virtual std::optional<PageSpan> find(ChunkId chunk) const = 0;

 protected:
  ~ChunkSource() = default;
};

}  // namespace thaw
