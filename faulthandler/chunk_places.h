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

  std::size_t run_count() const { return runs_.size(); }
  /// What a run takes of memory.
  static constexpr std::size_t kRunBytes = 24;

 private:
  struct Run {
    ChunkId chunk;
    PageCount length;
    PageIndex first;
  };
  static_assert(sizeof(Run) == kRunBytes);
  std::vector<Run> runs_;  // by chunk, none twice
};

}  // namespace thaw
