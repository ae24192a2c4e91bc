#include <algorithm>

#include "format/limits.h"
#include "format/pack.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::pick;
using test::random_bytes;
using test::succeeded;

// Offsets in a pack, as FORMAT.md has them.
constexpr std::size_t kVersionAt = 4;
constexpr std::size_t kPagesAt = 6;
constexpr std::size_t kPayloadAt = 8;
constexpr std::size_t kReservedAt = 12;
constexpr std::size_t kEntriesAt = 16;
constexpr std::size_t kEntryBytes = 16;

/// Every other page from page 10 on.
std::vector<PackPage> some_pages(std::size_t count) {
  std::vector<PackPage> pages;
  pages.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    pages.push_back({.page = {10 + 2 * i}, .chunk = ChunkId::of(1, 0, 100 - i)});
  }
  return pages;
}
Bytes compressible(std::size_t pages) {
  Bytes plain(bytes_of({pages}).value);
  for (std::size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<std::byte>(i / 500);
  return plain;
}
std::optional<ErrorCode> decoding(ByteSpan sealed, std::span<const PackPage> pages) {
  Bytes plain(bytes_of({pages.size()}).value);
  return code_of(PackCodec().decode(sealed, pages, plain));
}

TEST(Pack, RoundTrips) {
  auto generator = test::seeded_generator();
  PackCodec codec;
  for (const std::size_t count : {std::size_t{1}, limits::kMinPackPages, limits::kMaxPackPages}) {
    const std::vector<PackPage> pages = some_pages(count);
    for (const Bytes& plain : {compressible(count), random_bytes(generator, count * kPageBytes)}) {
      const Bytes sealed = codec.encode(pages, plain);
      EXPECT_LE(sealed.size(), limits::kMaxPackBytes);
      Bytes back(plain.size());
      ASSERT_TRUE(succeeded(codec.decode(sealed, pages, back)));
      EXPECT_EQ(back, plain);
    }
  }
}

TEST(Pack, IsSmallerThanItsPagesIfTheyCompress) {
  const std::size_t count = limits::kMinPackPages;
  EXPECT_LT(PackCodec().encode(some_pages(count), compressible(count)).size(),
            count * kPageBytes / 4);
}

TEST(Pack, OfOtherPagesIsRefusedByName) {
  const std::vector<PackPage> pages = some_pages(3);
  const Bytes sealed = PackCodec().encode(pages, compressible(3));
  ASSERT_EQ(decoding(sealed, pages), std::nullopt);
  EXPECT_EQ(decoding(sealed, std::span(pages).first(2)), ErrorCode::kMalformed);
  EXPECT_EQ(decoding(sealed, some_pages(4)), ErrorCode::kMalformed);
  auto other = pages;
  other[1].page = {13};
  EXPECT_EQ(decoding(sealed, other), ErrorCode::kMalformed);
  other = pages;
  other[2].chunk = ChunkId::of(1, 0, 7);
  EXPECT_EQ(decoding(sealed, other), ErrorCode::kChecksumMismatch) << "the page has changed";
}

TEST(Pack, RefusalsByName) {
  const std::vector<PackPage> pages = some_pages(2);
  const Bytes good = PackCodec().encode(pages, compressible(2));
  const auto changing = [&](std::size_t at, auto value) {
    Bytes sealed = good;
    store_le(sealed.data() + at, value);
    return decoding(sealed, pages);
  };
  const auto payload = load_le<std::uint32_t>(good.data() + kPayloadAt);
  EXPECT_EQ(changing(0, std::uint32_t{0x314b5055}), ErrorCode::kBadMagic);
  EXPECT_EQ(changing(kVersionAt, std::uint16_t{2}), ErrorCode::kBadVersion);
  EXPECT_EQ(changing(kPagesAt, std::uint16_t{3}), ErrorCode::kMalformed);
  EXPECT_EQ(changing(kPagesAt, std::uint16_t{0xffff}), ErrorCode::kMalformed);
  EXPECT_EQ(changing(kPayloadAt, payload + 1), ErrorCode::kTruncated);
  EXPECT_EQ(changing(kPayloadAt, ~std::uint32_t{0}), ErrorCode::kTruncated);
  EXPECT_EQ(changing(kPayloadAt, payload - 1), ErrorCode::kMalformed);
  EXPECT_EQ(changing(kReservedAt, std::uint32_t{1}), ErrorCode::kMalformed);
  EXPECT_EQ(changing(kEntriesAt, std::uint64_t{11}), ErrorCode::kMalformed);
  EXPECT_EQ(changing(kEntriesAt + kEntryBytes, pages[0].page.value), ErrorCode::kMalformed)
      << "a page that is there twice";
  EXPECT_EQ(changing(kEntriesAt + 8, std::uint64_t{1}), ErrorCode::kChecksumMismatch);
  EXPECT_EQ(changing(kEntriesAt + 2 * kEntryBytes, std::uint32_t{0}), ErrorCode::kMalformed)
      << "no zstd frame";
  Bytes longer = good;
  longer.push_back({});
  EXPECT_EQ(decoding(longer, pages), ErrorCode::kMalformed);
}

TEST(Pack, PayloadOfAnotherSizeIsMalformed) {
  const std::vector<PackPage> pages = some_pages(2);
  const Bytes two = PackCodec().encode(pages, compressible(2));
  for (const std::size_t count : {std::size_t{1}, std::size_t{3}}) {
    const Bytes other = PackCodec().encode(some_pages(count), compressible(count));
    Bytes sealed(two.begin(), two.begin() + kEntriesAt + 2 * kEntryBytes);
    sealed.insert(sealed.end(),
                  other.begin() + static_cast<std::ptrdiff_t>(kEntriesAt + count * kEntryBytes),
                  other.end());
    store_le(sealed.data() + kPayloadAt,
             static_cast<std::uint32_t>(sealed.size() - kEntriesAt - 2 * kEntryBytes));
    EXPECT_EQ(decoding(sealed, pages), ErrorCode::kMalformed) << count;
  }
}

TEST(Pack, CorruptionIsAlwaysRefusedOrHarmless) {
  auto generator = test::seeded_generator();
  const std::vector<PackPage> pages = some_pages(3);
  const Bytes plain = compressible(3);
  const Bytes good = PackCodec().encode(pages, plain);
  PackCodec codec;
  Bytes back(plain.size());
  for (int round = 0; round < 2000; ++round) {
    Bytes sealed = good;
    sealed[pick(generator, sealed.size())] = static_cast<std::byte>(generator());
    if (codec.decode(sealed, pages, back)) {
      EXPECT_EQ(back, plain);
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(decoding(ByteSpan(good).first(size), pages), ErrorCode::kTruncated) << size;
  }
}

}  // namespace
}  // namespace thaw
