#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/bytes.h"
#include "format/chunk.h"
#include "format/page_map.h"

namespace thaw {

/// A set of chunk ids: bitmaps of 65,536 neighbours each, where there is at least one. A bit for
/// each id of a store whose chunks are in use, whatever ids were in use once. A value.
class ChunkSet {
 public:
  static constexpr std::uint64_t kBlockIds = 1u << 16;
  static constexpr std::size_t kBlockBytes = kBlockIds / 8;

  bool contains(ChunkId id) const;
  bool empty() const { return blocks_.empty(); }
  std::uint64_t size() const;

  void insert(ChunkId id) { insert(id, 1); }
  /// `count` ids from `first` on.
  void insert(ChunkId first, std::uint64_t count);
  /// All that a page map names.
  void insert(const PageMap& map);
  void insert(const ChunkSet& other);
  void erase(ChunkId id);
  void erase(const ChunkSet& other);
  /// Leaves only those that are in `other` too.
  void keep(const ChunkSet& other);

  /// Ids from `first` on, ascending, at most `most`.
  std::vector<ChunkId> from(ChunkId first, std::size_t most) const;

  /// The numbers of the blocks that have an id, ascending; block k has the ids from k * kBlockIds
  /// on.
  std::vector<std::uint64_t> blocks() const;
  /// A block as it is stored: bit i, from the lowest of each byte on, is its i-th id. Empty when it
  /// has none.
  Bytes block(std::uint64_t number) const;
  /// Adds a block. kCorrupt when it has another size.
  Result<void> insert_block(std::uint64_t number, ByteSpan bitmap);

 private:
  static constexpr std::size_t kWords = kBlockIds / 64;
  using Block = std::vector<std::uint64_t>;  // kWords of them

  void drop_if_empty(std::map<std::uint64_t, Block>::iterator block);

  std::map<std::uint64_t, Block> blocks_;  // each has an id
};

}  // namespace thaw
