#include "pageserver/chunk_set.h"

#include <algorithm>
#include <bit>

namespace thaw {

namespace {

std::uint64_t bit_of(std::uint64_t id) { return std::uint64_t{1} << (id % 64); }

}  // namespace

bool ChunkSet::contains(ChunkId id) const {
  const auto found = blocks_.find(id.value / kBlockIds);
  if (found == blocks_.end()) return false;
  return (found->second[id.value % kBlockIds / 64] & bit_of(id.value)) != 0;
}

std::uint64_t ChunkSet::size() const {
  std::uint64_t size = 0;
  for (const auto& [number, block] : blocks_) {
    for (const std::uint64_t word : block) size += static_cast<unsigned>(std::popcount(word));
  }
  return size;
}

void ChunkSet::insert(ChunkId first, std::uint64_t count) {
  for (std::uint64_t id = first.value; count > 0;) {
    Block& block = blocks_.try_emplace(id / kBlockIds, kWords).first->second;
    std::uint64_t here = std::min(count, kBlockIds - id % kBlockIds);
    count -= here;
    for (; here > 0; --here, ++id) block[id % kBlockIds / 64] |= bit_of(id);
  }
}

void ChunkSet::insert(const PageMap& map) {
  for (PageMap::Cursor cursor(map); !cursor.at_end(); cursor.next()) {
    const PageMap::Run run = cursor.run();
    if (!run.zero()) insert(run.chunk, run.length.value);
  }
}

void ChunkSet::insert(const ChunkSet& other) {
  for (const auto& [number, block] : other.blocks_) {
    Block& own = blocks_.try_emplace(number, kWords).first->second;
    for (std::size_t w = 0; w < kWords; ++w) own[w] |= block[w];
  }
}

void ChunkSet::erase(ChunkId id) {
  const auto found = blocks_.find(id.value / kBlockIds);
  if (found == blocks_.end()) return;
  found->second[id.value % kBlockIds / 64] &= ~bit_of(id.value);
  drop_if_empty(found);
}

void ChunkSet::erase(const ChunkSet& other) {
  for (const auto& [number, block] : other.blocks_) {
    const auto found = blocks_.find(number);
    if (found == blocks_.end()) continue;
    for (std::size_t w = 0; w < kWords; ++w) found->second[w] &= ~block[w];
    drop_if_empty(found);
  }
}

void ChunkSet::keep(const ChunkSet& other) {
  ChunkSet rest = *this;
  rest.erase(other);
  erase(rest);
}

void ChunkSet::drop_if_empty(std::map<std::uint64_t, Block>::iterator block) {
  if (std::ranges::all_of(block->second, [](auto word) { return word == 0; })) blocks_.erase(block);
}

std::vector<ChunkId> ChunkSet::from(ChunkId first, std::size_t most) const {
  std::vector<ChunkId> ids;
  for (auto at = blocks_.lower_bound(first.value / kBlockIds); at != blocks_.end(); ++at) {
    const std::uint64_t start = at->first * kBlockIds;
    for (std::size_t w = 0; w < kWords; ++w) {
      for (std::uint64_t word = at->second[w]; word != 0; word &= word - 1) {
        const ChunkId id{start + w * 64 + static_cast<std::uint64_t>(std::countr_zero(word))};
        if (id < first) continue;
        if (ids.size() == most) return ids;
        ids.push_back(id);
      }
    }
  }
  return ids;
}

std::vector<std::uint64_t> ChunkSet::blocks() const {
  std::vector<std::uint64_t> numbers;
  numbers.reserve(blocks_.size());
  for (const auto& [number, block] : blocks_) numbers.push_back(number);
  return numbers;
}

Bytes ChunkSet::block(std::uint64_t number) const {
  const auto found = blocks_.find(number);
  if (found == blocks_.end()) return {};
  Bytes bitmap(kBlockBytes);
  for (std::size_t w = 0; w < kWords; ++w) store_le(bitmap.data() + w * 8, found->second[w]);
  return bitmap;
}

Result<void> ChunkSet::insert_block(std::uint64_t number, ByteSpan bitmap) {
  if (bitmap.size() != kBlockBytes) {
    return fail(ErrorCode::kCorrupt, "a bitmap of {} bytes", bitmap.size());
  }
  const auto found = blocks_.try_emplace(number, kWords).first;
  for (std::size_t w = 0; w < kWords; ++w) {
    found->second[w] |= load_le<std::uint64_t>(bitmap.data() + w * 8);
  }
  drop_if_empty(found);
  return {};
}

}  // namespace thaw
