#include <algorithm>
#include <set>

#include "format/chunk.h"
#include "format/envelope.h"
#include "format/hash.h"
#include "format/wire.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::succeeded;

constexpr ChunkId kId = ChunkId::of(3, 1, 42);

PlainPage compressible_page() {
  PlainPage page;
  for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(i / 64);
  return page;
}

PlainPage random_page(std::mt19937_64& generator) {
  PlainPage page;
  std::ranges::copy(test::random_bytes(generator, page.size()), page.begin());
  return page;
}

Bytes chunk_of(const PlainPage& page) {
  Bytes chunk;
  ChunkCodec().encode(page, kId, chunk);
  return chunk;
}

std::optional<ErrorCode> decoding(ByteSpan chunk) {
  PlainPage page;
  return code_of(ChunkCodec().decode(chunk, kId, page));
}

TEST(ChunkId, PartsComeBack) {
  const ChunkId id = ChunkId::of(0xffff, 0xff, ChunkId::kMaxSequence);
  EXPECT_EQ(id.value, ~std::uint64_t{0});
  EXPECT_EQ(id.name_space(), 0xffff);
  EXPECT_EQ(id.sequence(), ChunkId::kMaxSequence);
  EXPECT_TRUE(id.valid());
  EXPECT_FALSE(ChunkId::of(1, 1, 0).valid());
  EXPECT_FALSE(kNoChunk.valid());
}

TEST(Chunk, ZeroPagesAreRecognised) {
  PlainPage page{};
  EXPECT_TRUE(is_zero_page(page));
  for (std::size_t at = 0; at < kPageBytes; ++at) {
    page[at] = std::byte{1};
    EXPECT_FALSE(is_zero_page(page)) << at;
    page[at] = std::byte{0};
  }
  page.fill(std::byte{9});
  EXPECT_FALSE(is_zero_page(page));
}

TEST(Chunk, CompressiblePageRoundTripsAsZstd) {
  const PlainPage page = compressible_page();
  const Bytes chunk = chunk_of(page);
  PlainPage back;
  ASSERT_TRUE(succeeded(ChunkCodec().decode(chunk, kId, back)));
  EXPECT_EQ(back, page);
  EXPECT_EQ(chunk[2], static_cast<std::byte>(Codec::kZstd));
  EXPECT_LT(chunk.size(), kPageBytes / 2);
  EXPECT_EQ(chunk_size(chunk).value(), chunk.size());
}

TEST(Chunk, IncompressiblePageRoundTripsRaw) {
  auto generator = test::seeded_generator();
  const PlainPage page = random_page(generator);
  const Bytes chunk = chunk_of(page);
  PlainPage back;
  ASSERT_TRUE(succeeded(ChunkCodec().decode(chunk, kId, back)));
  EXPECT_EQ(back, page);
  EXPECT_EQ(chunk[2], static_cast<std::byte>(Codec::kRaw));
  EXPECT_EQ(chunk.size(), kMaxChunkBytes);
}

TEST(Chunk, ConcatenatedChunksAreFoundBySize) {
  auto generator = test::seeded_generator();
  ChunkCodec codec;
  Bytes chunks;
  codec.encode(compressible_page(), kId, chunks);
  const std::size_t first = chunks.size();
  codec.encode(random_page(generator), kId, chunks);
  EXPECT_EQ(chunk_size(chunks).value(), first);
  EXPECT_EQ(chunk_size(ByteSpan(chunks).subspan(first)).value(), kMaxChunkBytes);
  EXPECT_EQ(decoding(chunks), ErrorCode::kMalformed) << "decode takes exactly one";
}

TEST(Chunk, AnotherIdIsAMismatchUntilResealed) {
  const PlainPage page = compressible_page();
  Bytes chunk = chunk_of(page);
  const ChunkId other = ChunkId::of(3, 1, 43);
  PlainPage back;
  EXPECT_EQ(code_of(ChunkCodec().decode(chunk, other, back)), ErrorCode::kChecksumMismatch);
  reseal_chunk(chunk, page, other);
  ASSERT_TRUE(succeeded(ChunkCodec().decode(chunk, other, back)));
  EXPECT_EQ(back, page);
  EXPECT_EQ(decoding(chunk), ErrorCode::kChecksumMismatch);
}

TEST(Chunk, HeaderRefusals) {
  auto generator = test::seeded_generator();
  const Bytes raw = chunk_of(random_page(generator));
  const auto changed = [&](std::size_t at, int value) {
    Bytes chunk = raw;
    chunk[at] = static_cast<std::byte>(value);
    return chunk;
  };
  EXPECT_EQ(decoding(changed(0, 0xc6)), ErrorCode::kBadMagic);
  EXPECT_EQ(decoding(changed(1, 2)), ErrorCode::kBadVersion);
  EXPECT_EQ(decoding(changed(2, 2)), ErrorCode::kMalformed) << "codec";
  EXPECT_EQ(decoding(changed(3, 1)), ErrorCode::kMalformed) << "reserved";
  EXPECT_EQ(decoding(changed(4, 1)), ErrorCode::kMalformed) << "dictionary";
  EXPECT_EQ(decoding(changed(6, 1)), ErrorCode::kMalformed) << "more than a page";
  EXPECT_EQ(decoding(changed(7, 0x08)), ErrorCode::kMalformed) << "raw, less than a page";
  EXPECT_EQ(decoding(changed(8, std::to_integer<int>(raw[8]) ^ 1)), ErrorCode::kChecksumMismatch);
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{15}, std::size_t{16}, raw.size() - 1}) {
    EXPECT_EQ(decoding(ByteSpan(raw).first(size)), ErrorCode::kTruncated) << size;
  }
}

TEST(Chunk, ZstdFrameOfAnotherSizeIsMalformed) {
  // A frame with one raw block of four bytes (RFC 8878, section 3.1.1).
  const unsigned char frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x04, 0x21,
                                 0x00, 0x00, 't',  'h',  'a',  'w'};
  Bytes chunk(kChunkHeaderBytes);
  chunk[0] = std::byte{0xc7};
  chunk[1] = std::byte{1};
  chunk[2] = static_cast<std::byte>(Codec::kZstd);
  chunk[6] = static_cast<std::byte>(sizeof(frame));
  std::ranges::copy(std::as_bytes(std::span(frame)), std::back_inserter(chunk));
  EXPECT_EQ(decoding(chunk), ErrorCode::kMalformed);
}

TEST(Chunk, CorruptionNeverYieldsAnotherPage) {
  auto generator = test::seeded_generator();
  const PlainPage page = compressible_page();
  const Bytes good = chunk_of(page);
  ChunkCodec codec;
  for (int round = 0; round < 5000; ++round) {
    Bytes chunk = good;
    for (std::uint64_t i = 0; i <= test::pick(generator, 3); ++i) {
      chunk[test::pick(generator, chunk.size())] = static_cast<std::byte>(generator());
    }
    PlainPage back;
    if (codec.decode(chunk, kId, back)) {
      EXPECT_EQ(back, page);
    }
  }
}

constexpr EnvelopeKind kTestKind{
    .magic = 0x12345678, .version = 7, .most_plain_bytes = 1000, .name = "test document"};

TEST(Envelope, RoundTripsEverySizeUpToItsLimit) {
  auto generator = test::seeded_generator();
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{999}, std::size_t{1000}}) {
    const Bytes plain = test::random_bytes(generator, size);
    const auto opened = open_envelope(kTestKind, seal_envelope(kTestKind, plain));
    ASSERT_TRUE(succeeded(opened));
    EXPECT_EQ(*opened, plain);
  }
}

TEST(Envelope, RefusalsByName) {
  const Bytes good = seal_envelope(kTestKind, as_bytes("some plain text"));
  const auto opening = [&](std::size_t at, int value) {
    Bytes sealed = good;
    sealed[at] = static_cast<std::byte>(value);
    return code_of(open_envelope(kTestKind, sealed));
  };
  EXPECT_EQ(opening(0, 0), ErrorCode::kBadMagic);
  EXPECT_EQ(opening(4, 8), ErrorCode::kBadVersion);
  EXPECT_EQ(opening(6, 1), ErrorCode::kMalformed);
  EXPECT_EQ(opening(9, 0xff), ErrorCode::kTooLarge);
  EXPECT_EQ(opening(8, 14), ErrorCode::kMalformed) << "another plain size";
  EXPECT_EQ(opening(12, 1), ErrorCode::kMalformed) << "bytes after the payload";
  EXPECT_EQ(opening(15, 1), ErrorCode::kTruncated);
  EXPECT_EQ(opening(16, std::to_integer<int>(good[16]) ^ 1), ErrorCode::kChecksumMismatch);
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(code_of(open_envelope(kTestKind, ByteSpan(good).first(size))), ErrorCode::kTruncated);
  }
}

TEST(Hash, KnownValues) {
  EXPECT_EQ(to_hex(Hasher().hash(as_bytes("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(to_hex(zero_page_hash()),
            "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7");
}

TEST(Hash, ContextIsReusable) {
  Hasher hasher;
  const Sha256 first = hasher.hash(as_bytes("a"));
  EXPECT_NE(hasher.hash(as_bytes("b")), first);
  EXPECT_EQ(hasher.hash(as_bytes("a")), first);
}

SnapshotSpec image_spec(ByteCount memory, ByteCount state) {
  return {
      .name = {}, .memory = memory, .state = state, .regions = {}, .labels = {}, .cpu_vendor = {}};
}

/// Of a page and zero pages around it.
std::string content_of(ContentForm form, std::uint64_t zeros_before, std::uint64_t zeros_behind,
                       ByteCount state = {}) {
  ContentHash content(form);
  content.add_zero_pages({zeros_before});
  content.add(Hasher().hash(as_bytes("page")));
  content.add_zero_pages({zeros_behind});
  const PageCount pages{zeros_before + 1 + zeros_behind};
  const ByteCount memory = bytes_of(pages - pages_for(state));
  return to_hex(content.finish(image_spec(memory, state)));
}

TEST(ContentHash, FlatOneIsTheHashOfThePageHashes) {
  const Sha256 page = Hasher().hash(as_bytes("page"));
  ContentHash content(ContentForm::kFlat);
  content.add_zero_pages({2});
  content.add(page);
  Bytes hashes;
  for (const Sha256& hash : {zero_page_hash(), zero_page_hash(), page}) {
    hashes.insert(hashes.end(), hash.begin(), hash.end());
  }
  EXPECT_EQ(content.finish(image_spec({3 * kPageBytes}, {})), Hasher().hash(hashes));
}

TEST(ContentHash, OneBySegmentsIsAsAnotherImplementationHasIt) {
  constexpr auto kForm = ContentForm::kSegments;
  EXPECT_EQ(content_of(kForm, 2, 0),
            "5f6d273ed4e235d9929c44a30c392398d4dfe5ac41773cf4dc75d39c027549ed");
  EXPECT_EQ(content_of(kForm, 65'536, 0),
            "51775448226c195882554d09fcd90d83e198062e17c56c6a9e12f251b700e3d1");
  EXPECT_EQ(content_of(kForm, 65'536, 0, {100}),
            "53921af00106538b7f5ebd99cbe6c1a0f09731927bafef8f7620b2b2d432b8d0");
  EXPECT_EQ(content_of(kForm, 0, 2 * 65'536),
            "0dba61c7cf6635b49925d7af8bac787fce39cf787caaa8640608ef16a39cc5ae");
}

TEST(ContentHash, TellsFormsOrdersAndPlacesApart) {
  const std::set<std::string> all{
      content_of(ContentForm::kFlat, 1, 1),
      content_of(ContentForm::kSegments, 1, 1),
      content_of(ContentForm::kSegments, 0, 2),
      content_of(ContentForm::kSegments, 1, 2),
      content_of(ContentForm::kSegments, 65'535, 1),
      content_of(ContentForm::kSegments, 65'536, 0),
      // The same pages with the state beginning elsewhere, or ending.
      content_of(ContentForm::kSegments, 1, 1, {kPageBytes}),
      content_of(ContentForm::kSegments, 1, 1, {kPageBytes - 1}),
  };
  EXPECT_EQ(all.size(), 8u);
}

TEST(ContentHash, DoesNotDependOnHowPagesAreAdded) {
  Bytes zeros = empty_bitmap(65'600);
  for (std::size_t i = 0; i < 65'600; ++i) {
    if (i != 65'535 && i != 65'536) set_bit(zeros, i);
  }
  const std::vector<Sha256> pages{Hasher().hash(as_bytes("a")), Hasher().hash(as_bytes("b"))};
  ContentHash at_once(ContentForm::kSegments);
  at_once.add_pages(zeros, {65'600}, pages);
  ContentHash one_by_one(ContentForm::kSegments);
  for (int i = 0; i < 65'535; ++i) one_by_one.add(zero_page_hash());
  one_by_one.add(pages);
  for (int i = 0; i < 63; ++i) one_by_one.add_zero_pages({1});

  const SnapshotSpec spec = image_spec({65'600 * kPageBytes}, {});
  EXPECT_EQ(at_once.finish(spec), one_by_one.finish(spec));
}

}  // namespace
}  // namespace thaw
