#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/types.h"
#include "format/page_map.h"

namespace thaw {

/// A page map the other way round: the page that has a chunk. It says where the map's runs begin,
/// in the order of their chunks; the map itself says which chunks these are. Immutable.
class ChunkPlaces {
 public:
  /// Of the pages before `end`.
  ChunkPlaces(std::shared_ptr<const PageMap> map, PageCount end);

  /// A page with this chunk, of several any.
  std::optional<PageIndex> find(ChunkId chunk) const;

  /// What it takes of memory beside the map, and what it takes until it is made.
  ByteCount memory() const;
  static ByteCount memory_to_make(const PageMap& map);

 private:
  /// One that is being made.
  struct Run {
    ChunkId chunk;
    std::uint32_t first;
    std::uint32_t length;
  };

  std::shared_ptr<const PageMap> map_;
  PageCount end_;
  std::vector<std::uint32_t> pages_;  // from which on chunks count up, by chunk; none is twice
  std::vector<ChunkId> groups_;       // the chunks of the first of each kGroup pages_
};

}  // namespace thaw
