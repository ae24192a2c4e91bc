#include <algorithm>
#include <numeric>

#include "format/envelope.h"
#include "format/limits.h"
#include "format/working_set.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::pick;
using test::succeeded;

/// As FORMAT.md has it, to seal hostile content.
constexpr EnvelopeKind kSetKind{.magic = 0x31'53'57'54,
                                .version = 1,
                                .most_plain_bytes = limits::kMaxWorkingSetBytes,
                                .name = "working set"};

Bytes plain_varints(const std::vector<std::uint64_t>& values) {
  Bytes plain;
  for (const std::uint64_t value : values) append_varint(plain, value);
  return plain;
}
std::optional<ErrorCode> decoding(const std::vector<std::uint64_t>& values) {
  return code_of(decode_working_set(seal_envelope(kSetKind, plain_varints(values))));
}

/// The zigzag form of a step that is not negative.
constexpr std::uint64_t up(std::uint64_t pages) { return pages << 1; }
constexpr std::uint64_t seen(std::uint64_t recordings, TouchClass when) {
  return recordings << 2 | static_cast<unsigned>(when);
}

/// A map of runs of zeros and of chunks in turn.
PageMap random_map(std::mt19937_64& generator, std::uint64_t pages) {
  PageMap map;
  while (map.size().value < pages) {
    const PageCount run{std::min(1 + pick(generator, 20), pages - map.size().value)};
    pick(generator, 2) == 0 ? map.append_zero(run)
                            : map.append_chunks(ChunkId::of(1, 0, 1 + pick(generator, 1000)), run);
  }
  return map;
}

/// A set of some pages of the map, in any order, with packs of any size for those not zero.
WorkingSet random_set(std::mt19937_64& generator, const PageMap& map) {
  WorkingSet set;
  set.snapshot = {1 + pick(generator, 1000)};
  set.generation = pick(generator, 1000);
  set.recordings = static_cast<std::uint8_t>(pick(generator, limits::kMaxRecordings + 1));
  std::vector<std::uint64_t> pages(map.size().value);
  std::iota(pages.begin(), pages.end(), 0);
  std::ranges::shuffle(pages, generator);
  pages.resize(pick(generator, pages.size()));
  std::uint64_t stored = 0;
  for (const std::uint64_t page : pages) {
    set.pages.push_back({.page = {page},
                         .when = static_cast<TouchClass>(pick(generator, 3)),
                         .seen = static_cast<std::uint8_t>(generator()),
                         .median_us = static_cast<std::uint32_t>(generator())});
    if (map.chunk_of({page}).valid()) ++stored;
  }
  while (stored > 0) {
    const std::uint64_t size = std::min(stored, 1 + pick(generator, limits::kMaxPackPages));
    set.packs.push_back({.pages = static_cast<std::uint16_t>(size),
                         .bytes = static_cast<std::uint32_t>(pick(generator, 200'000))});
    stored -= size;
  }
  return set;
}

TEST(WorkingSet, RoundTrips) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 50; ++round) {
    const WorkingSet set = random_set(generator, random_map(generator, 500));
    const auto back = decode_working_set(encode_working_set(set));
    ASSERT_TRUE(succeeded(back));
    EXPECT_EQ(*back, set);
  }
  EXPECT_EQ(decode_working_set(encode_working_set({})).value(), WorkingSet{});
}

TEST(WorkingSet, LargestFitsItsLimit) {
  WorkingSet set;
  set.snapshot = {~std::uint64_t{0}};
  set.generation = ~std::uint64_t{0};
  set.recordings = limits::kMaxRecordings;
  for (std::size_t i = 0; i < limits::kMaxTouches; ++i) {
    const std::uint64_t page = i % 2 == 0 ? i : limits::kMaxImagePages - i;
    set.pages.push_back(
        {.page = {page}, .when = TouchClass::kLate, .seen = UINT8_MAX, .median_us = UINT32_MAX});
  }
  set.packs.assign(limits::kMaxTouches / limits::kMinPackPages,
                   {.pages = limits::kMinPackPages, .bytes = limits::kMaxPackBytes});
  const auto back = decode_working_set(encode_working_set(set));
  ASSERT_TRUE(succeeded(back));
  EXPECT_EQ(*back, set);
}

TEST(WorkingSet, HostileOnesAreRefusedByName) {
  const std::uint64_t early = seen(3, TouchClass::kEarly);
  const std::vector<std::uint64_t> whole{5, 6, 3, 2, up(9), early, 70, up(1), early, 80, 1, 2, 900};
  ASSERT_EQ(decoding(whole), std::nullopt);
  EXPECT_EQ(decoding({5, 6, limits::kMaxRecordings + 1, 0, 0}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding({5, 6, 3, limits::kMaxTouches + 1}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding({5, 6, 3, ~std::uint64_t{0}}), ErrorCode::kTooLarge);
  const std::pair<const char*, std::vector<std::uint64_t>> malformed[] = {
      {"page beyond the limit", {5, 6, 3, 1, up(limits::kMaxImagePages), early, 70, 0}},
      {"page before the first", {5, 6, 3, 1, 1, early, 70, 0}},
      {"page that is there twice", {5, 6, 3, 2, up(9), early, 70, 0, early, 70, 0}},
      {"unknown class", {5, 6, 3, 1, up(9), seen(1, TouchClass{3}), 70, 0}},
      {"too many sightings", {5, 6, 3, 1, up(9), seen(256, TouchClass::kFirst), 70, 0}},
      {"time beyond the limit", {5, 6, 3, 1, up(9), early, std::uint64_t{1} << 32, 0}},
      {"more packs than pages", {5, 6, 3, 1, up(9), early, 70, 2, 1, 1, 1, 1}},
      {"pack of no pages", {5, 6, 3, 1, up(9), early, 70, 1, 0, 1}},
      {"pack of too many pages", {5, 6, 3, 1, up(9), early, 70, 1, limits::kMaxPackPages + 1, 1}},
      {"pack of too many bytes", {5, 6, 3, 1, up(9), early, 70, 1, 1, limits::kMaxPackBytes + 1}},
      {"bytes after the last pack", {5, 6, 3, 1, up(9), early, 70, 1, 1, 1, 0}},
      {"bytes after nothing", {5, 6, 3, 0, 0, 0}},
  };
  for (const auto& [what, values] : malformed) {
    EXPECT_EQ(decoding(values), ErrorCode::kMalformed) << what;
  }
  const Bytes plain = plain_varints(whole);
  for (std::size_t size = 0; size < plain.size(); ++size) {
    const Bytes sealed = seal_envelope(kSetKind, ByteSpan(plain).first(size));
    EXPECT_EQ(code_of(decode_working_set(sealed)), ErrorCode::kTruncated) << size;
  }
}

TEST(WorkingSet, CorruptionIsAlwaysRefusedOrHarmless) {
  auto generator = test::seeded_generator();
  const WorkingSet set = random_set(generator, random_map(generator, 300));
  const Bytes good = encode_working_set(set);
  for (int round = 0; round < 2000; ++round) {
    Bytes sealed = good;
    sealed[pick(generator, sealed.size())] = static_cast<std::byte>(generator());
    const auto decoded = decode_working_set(sealed);
    if (decoded) {
      EXPECT_EQ(*decoded, set);
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(code_of(decode_working_set(ByteSpan(good).first(size))), ErrorCode::kTruncated);
  }
}

TEST(PackedPages, PacksTakeUpTheStoredPagesInTheOrderOfTheSet) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 50; ++round) {
    const PageMap map = random_map(generator, 500);
    const WorkingSet set = random_set(generator, map);
    const auto packs = packed_pages(set, map, map.size());
    ASSERT_TRUE(succeeded(packs));
    ASSERT_EQ(packs->size(), set.packs.size());
    auto next = set.pages.begin();
    for (std::size_t i = 0; i < packs->size(); ++i) {
      std::vector<PackPage> due;
      for (; due.size() < set.packs[i].pages; ++next) {
        if (map.chunk_of(next->page).valid()) due.push_back({next->page, map.chunk_of(next->page)});
      }
      EXPECT_TRUE(std::ranges::is_sorted((*packs)[i], {}, &PackPage::page));
      EXPECT_TRUE(std::ranges::is_permutation((*packs)[i], due));
    }
  }
}

TEST(PackedPages, SetThatDoesNotAgreeWithItsPacksIsMalformed) {
  PageMap map;
  map.append_chunks(ChunkId::of(1, 0, 1), {4});
  map.append_zero({4});
  WorkingSet set;
  for (const std::uint64_t page : {3u, 7u, 1u}) set.pages.push_back({.page = {page}});
  const auto packing = [&](std::vector<PackShape> packs, PageCount memory) {
    set.packs = std::move(packs);
    return code_of(packed_pages(set, map, memory));
  };
  EXPECT_EQ(packing({{2, 100}}, {8}), std::nullopt);
  EXPECT_EQ(packing({{1, 100}, {1, 100}}, {8}), std::nullopt);
  EXPECT_EQ(packing({{3, 100}}, {8}), ErrorCode::kMalformed) << "the page of zeros is in no pack";
  EXPECT_EQ(packing({{2, 100}, {1, 100}}, {8}), ErrorCode::kMalformed);
  EXPECT_EQ(packing({{1, 100}}, {8}), ErrorCode::kMalformed) << "a page is left over";
  EXPECT_EQ(packing({}, {8}), ErrorCode::kMalformed);
  EXPECT_EQ(packing({{2, 100}}, {7}), ErrorCode::kMalformed) << "page 7 is no memory";
}

}  // namespace
}  // namespace thaw
