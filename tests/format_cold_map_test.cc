#include <algorithm>

#include "format/cold_map.h"
#include "format/envelope.h"
#include "format/limits.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::pick;
using test::succeeded;

/// As FORMAT.md has it, to seal hostile content.
constexpr EnvelopeKind kColdMapKind{.magic = 0x31'4d'43'54,
                                    .version = 1,
                                    .most_plain_bytes = limits::kMaxColdMapBytes,
                                    .name = "cold map"};

constexpr PageCount kMemory{100};
constexpr PageCount kMostMemory{limits::kMaxImagePages};

Bytes plain_varints(const std::vector<std::uint64_t>& values) {
  Bytes plain;
  for (const std::uint64_t value : values) append_varint(plain, value);
  return plain;
}
std::optional<ErrorCode> decoding(const std::vector<std::uint64_t>& values) {
  return code_of(decode_cold_map(seal_envelope(kColdMapKind, plain_varints(values)), kMemory));
}

/// Ranges of at most `most` pages, between `gap` and twice as many others.
ColdMap random_map(std::mt19937_64& generator, std::size_t ranges, std::uint64_t most,
                   std::uint64_t gap) {
  ColdMap map;
  PageIndex next{pick(generator, 2)};
  for (std::size_t i = 0; i < ranges; ++i) {
    map.push_back({next, {1 + pick(generator, most)}});
    next = map.back().first + map.back().count + PageCount{gap + pick(generator, gap)};
  }
  return map;
}

TEST(ColdMap, RoundTrips) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 50; ++round) {
    const ColdMap map = random_map(generator, pick(generator, 200), 1000, 1 + pick(generator, 50));
    const auto back = decode_cold_map(encode_cold_map(map), kMostMemory);
    ASSERT_TRUE(succeeded(back));
    EXPECT_EQ(*back, map);
  }
  const ColdMap all{{{0}, kMostMemory}};
  EXPECT_EQ(decode_cold_map(encode_cold_map(all), kMostMemory).value(), all);
}

TEST(ColdMap, LongestRangesOfTooManyStay) {
  auto generator = test::seeded_generator();
  ColdMap map = random_map(generator, limits::kMaxColdRanges, 1000, 500);
  const ColdMap fits = map;
  limit_cold_map(map);
  EXPECT_EQ(map, fits);
  // Three pages each at least, and ranges of a single page between them.
  for (PageRange& range : map) range.count += PageCount{2};
  ColdMap longer;
  for (const PageRange& range : map) {
    longer.push_back(range);
    longer.push_back({range.first + range.count + PageCount{1}, {1}});
  }
  limit_cold_map(longer);
  EXPECT_EQ(longer, map);
  const auto back = decode_cold_map(encode_cold_map(longer), kMostMemory);
  ASSERT_TRUE(succeeded(back));
  EXPECT_EQ(*back, longer);
}

TEST(ColdMap, HostileOnesAreRefusedByName) {
  EXPECT_EQ(decoding({0}), std::nullopt);
  EXPECT_EQ(decoding({2, 0, 5, 1, 94}), std::nullopt);
  EXPECT_EQ(decoding({limits::kMaxColdRanges + 1}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding({~std::uint64_t{0}}), ErrorCode::kTooLarge);
  const std::pair<const char*, std::vector<std::uint64_t>> malformed[] = {
      {"empty range", {1, 3, 0}},
      {"ranges without a gap", {2, 0, 5, 0, 1}},
      {"one page too many", {2, 0, 5, 1, 95}},
      {"range behind the memory", {1, 100, 1}},
      {"gap that wraps around", {2, 0, 5, ~std::uint64_t{0} - 3, 2}},
      {"length that wraps around", {1, 50, ~std::uint64_t{0} - 3}},
      {"bytes after the last range", {1, 0, 1, 0}},
      {"bytes after no range", {0, 0}},
  };
  for (const auto& [what, values] : malformed) {
    EXPECT_EQ(decoding(values), ErrorCode::kMalformed) << what;
  }
  const Bytes plain = plain_varints({2, 0, 5, 1, 94});
  for (std::size_t size = 0; size < plain.size(); ++size) {
    const Bytes sealed = seal_envelope(kColdMapKind, ByteSpan(plain).first(size));
    EXPECT_EQ(code_of(decode_cold_map(sealed, kMemory)), ErrorCode::kTruncated) << size;
  }
}

TEST(ColdMap, CorruptionIsAlwaysRefusedOrHarmless) {
  auto generator = test::seeded_generator();
  const ColdMap map = random_map(generator, 50, 100, 10);
  const Bytes good = encode_cold_map(map);
  for (int round = 0; round < 2000; ++round) {
    Bytes sealed = good;
    sealed[pick(generator, sealed.size())] = static_cast<std::byte>(generator());
    const auto decoded = decode_cold_map(sealed, kMostMemory);
    if (decoded) {
      EXPECT_EQ(*decoded, map);
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(code_of(decode_cold_map(ByteSpan(good).first(size), kMostMemory)),
              ErrorCode::kTruncated);
  }
}

}  // namespace
}  // namespace thaw
