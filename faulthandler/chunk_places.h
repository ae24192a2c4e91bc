#pragma once

#include <optional>
#include <vector>

#include "base/types.h"
#include "format/page_map.h"

namespace thaw {

/// A page map the other way round: the page that has a chunk. Immutable.
class ChunkPlaces {
 public:
  /// Of the pages before `end`.
  ChunkPlaces(const PageMap& map, PageCount end);

  /// A page with this chunk, of several any.
  std::optional<PageIndex> find(ChunkId chunk) const;

 private:
  struct Run {
    ChunkId chunk;
    PageCount length;
    PageIndex first;
  };
  std::vector<Run> runs_;  // by chunk, none twice
};

}  // namespace thaw
