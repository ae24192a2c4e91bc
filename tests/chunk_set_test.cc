#include "pageserver/chunk_set.h"

#include <set>

#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::uint64_t kBlock = ChunkSet::kBlockIds;

std::set<std::uint64_t> ids_of(const ChunkSet& set) {
  std::set<std::uint64_t> ids;
  for (const ChunkId id : set.from(kNoChunk, SIZE_MAX)) ids.insert(id.value);
  return ids;
}

TEST(ChunkSet, BehavesAsASetOfNumbers) {
  auto generator = seeded_generator();
  std::uniform_int_distribution<std::uint64_t> id(1, 3 * kBlock);
  ChunkSet set;
  ChunkSet other;
  std::set<std::uint64_t> model;
  std::set<std::uint64_t> other_model;
  for (int i = 0; i < 5000; ++i) {
    const std::uint64_t first = id(generator);
    const std::uint64_t count = i % 50 == 0 ? 300 : 1;
    set.insert({first}, count);
    for (std::uint64_t j = 0; j < count; ++j) model.insert(first + j);
    const std::uint64_t gone = id(generator);
    set.erase(ChunkId{gone});
    model.erase(gone);
    other.insert({gone});
    other_model.insert(gone);
    EXPECT_EQ(set.contains({first + count - 1}), model.contains(first + count - 1));
  }
  EXPECT_EQ(ids_of(set), model);
  EXPECT_EQ(set.size(), model.size());

  ChunkSet kept = set;
  kept.keep(other);
  set.erase(other);
  std::set<std::uint64_t> kept_model;
  for (const std::uint64_t each : other_model) {
    if (model.erase(each) > 0) kept_model.insert(each);
  }
  EXPECT_EQ(ids_of(set), model);
  EXPECT_EQ(ids_of(kept), kept_model);
  set.insert(kept);
  model.merge(kept_model);
  EXPECT_EQ(ids_of(set), model);
}

TEST(ChunkSet, RunsCrossBlocks) {
  ChunkSet set;
  set.insert({kBlock - 2}, kBlock + 4);
  EXPECT_EQ(set.size(), kBlock + 4);
  EXPECT_EQ(set.blocks(), (std::vector<std::uint64_t>{0, 1, 2}));
  EXPECT_FALSE(set.contains({kBlock - 3}));
  EXPECT_TRUE(set.contains({2 * kBlock + 1}));
  EXPECT_FALSE(set.contains({2 * kBlock + 2}));
}

TEST(ChunkSet, IsReadInPieces) {
  ChunkSet set;
  for (const std::uint64_t id : {5u, 6u, 70'000u}) set.insert({id});
  EXPECT_EQ(set.from(kNoChunk, 2), (std::vector<ChunkId>{{5}, {6}}));
  EXPECT_EQ(set.from({7}, 2), (std::vector<ChunkId>{{70'000}}));
  EXPECT_TRUE(set.from({70'001}, 2).empty());
}

TEST(ChunkSet, BlocksRoundTrip) {
  ChunkSet set;
  set.insert({3}, 100);
  set.insert({9 * kBlock + 63}, 2);
  ChunkSet copy;
  for (const std::uint64_t number : set.blocks()) {
    ASSERT_TRUE(succeeded(copy.insert_block(number, set.block(number))));
  }
  EXPECT_EQ(ids_of(copy), ids_of(set));
  EXPECT_TRUE(set.block(1).empty());
  EXPECT_EQ(code_of(copy.insert_block(1, Bytes(7))), ErrorCode::kCorrupt);
  ASSERT_TRUE(succeeded(copy.insert_block(77, Bytes(ChunkSet::kBlockBytes))));
  EXPECT_EQ(copy.blocks(), set.blocks());
}

}  // namespace
}  // namespace thaw::test
