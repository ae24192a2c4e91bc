#include "faulthandler/chunk_places.h"

#include <memory>
#include <random>

#include <gtest/gtest.h>

namespace thaw {
namespace {

ChunkId chunk(std::uint64_t sequence) { return ChunkId::of(1, 0, sequence); }

ChunkPlaces places_of(const PageMap& map, PageCount end) {
  return {std::make_shared<const PageMap>(map), end};
}

TEST(ChunkPlaces, FindsPagesOfRuns) {
  PageMap map;
  map.append_zero({2});
  map.append_chunks(chunk(10), {5});
  map.append_chunks(chunk(100), {1});
  const ChunkPlaces places = places_of(map, map.size());

  EXPECT_EQ(places.find(chunk(10)), PageIndex{2});
  EXPECT_EQ(places.find(chunk(14)), PageIndex{6});
  EXPECT_EQ(places.find(chunk(100)), PageIndex{7});
  for (const std::uint64_t missing : {1, 9, 15, 99, 101}) {
    EXPECT_EQ(places.find(chunk(missing)), std::nullopt) << missing;
  }
  EXPECT_EQ(places.find(kNoChunk), std::nullopt);
}

TEST(ChunkPlaces, PagesFromTheEndOnAreNotKnown) {
  PageMap map;
  map.append_chunks(chunk(10), {5});
  const ChunkPlaces places = places_of(map, {3});

  EXPECT_EQ(places.find(chunk(12)), PageIndex{2});
  EXPECT_EQ(places.find(chunk(13)), std::nullopt);
}

TEST(ChunkPlaces, RunsThatOverlapHideNoChunk) {
  const std::uint64_t seed = 5;
  std::mt19937_64 generator(seed);
  for (int round = 0; round < 200; ++round) {
    PageMap map;
    for (int i = 0; i < 12; ++i) {
      map.append_chunks(chunk(1 + generator() % 40), {1 + generator() % 10});
      if (generator() % 2 == 0) map.append_zero({1});
    }
    const ChunkPlaces places = places_of(map, map.size());
    for (std::uint64_t page = 0; page < map.size().value; ++page) {
      const ChunkId wanted = map.chunk_of({page});
      if (!wanted.valid()) continue;
      const auto found = places.find(wanted);
      ASSERT_TRUE(found) << "round " << round << ", seed " << seed;
      EXPECT_EQ(map.chunk_of(*found), wanted);
    }
  }
}

TEST(ChunkPlaces, TakeLittleMemoryForEachRun) {
  PageMap map;
  for (std::uint64_t i = 0; i < 10'000; ++i) map.append_chunks(chunk(1 + i * 7 % 30'000), {1});
  const ChunkPlaces places = places_of(map, map.size());
  EXPECT_LE(places.memory().value, map.run_count() * 6 + sizeof(ChunkId));
  EXPECT_LE(places.memory(), ChunkPlaces::memory_to_make(map));
  for (std::uint64_t page = 0; page < map.size().value; ++page) {
    ASSERT_EQ(places.find(map.chunk_of({page})), PageIndex{page});
  }
}

}  // namespace
}  // namespace thaw
