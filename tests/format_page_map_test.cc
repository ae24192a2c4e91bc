#include <algorithm>

#include "format/envelope.h"
#include "format/limits.h"
#include "format/page_map.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::pick;
using test::succeeded;

constexpr PageCount kSegment{limits::kSegmentPages};

/// As FORMAT.md has it, to seal hostile content.
constexpr EnvelopeKind kSegmentKind{.magic = 0x31'4d'50'54,
                                    .version = 1,
                                    .most_plain_bytes = limits::kMaxSegmentBytes - 4096,
                                    .name = "page map segment"};

constexpr std::uint64_t zero_run(std::uint64_t length) { return length << 1; }
constexpr std::uint64_t chunk_run(std::uint64_t length) { return length << 1 | 1; }
/// The zigzag form of a difference that is not negative.
constexpr std::uint64_t up(std::uint64_t difference) { return difference << 1; }

Bytes sealed_varints(std::initializer_list<std::uint64_t> values) {
  Bytes plain;
  for (const std::uint64_t value : values) append_varint(plain, value);
  return seal_envelope(kSegmentKind, plain);
}

Bytes sealed_bytes(std::initializer_list<std::uint64_t> values) {
  Bytes plain;
  for (const std::uint64_t value : values) plain.push_back(static_cast<std::byte>(value));
  return seal_envelope(kSegmentKind, plain);
}

std::optional<ErrorCode> appending(ByteSpan sealed, PageCount most = kSegment) {
  PageMap map;
  const auto code = code_of(map.append_segment(sealed, most));
  if (code) {
    EXPECT_EQ(map.size(), PageCount{0}) << "unchanged on an error";
  }
  return code;
}

Result<PageMap> copy_by_segments(const PageMap& map) {
  PageMap copy;
  for (std::size_t i = 0; i < map.segment_count(); ++i) {
    TRY(copy.append_segment(map.encode_segment(i), map.size() - copy.size()));
  }
  return copy;
}

/// A map and, page by page, what it has to say.
struct Model {
  PageMap map;
  std::vector<std::uint64_t> pages;

  void append(ChunkId first, std::uint64_t count) {
    first == kNoChunk ? map.append_zero({count}) : map.append_chunks(first, {count});
    for (std::uint64_t i = 0; i < count; ++i) {
      pages.push_back(first == kNoChunk ? 0 : first.value + i);
    }
  }
};

Model random_model(std::mt19937_64& generator, std::uint64_t longest_run) {
  Model model;
  ChunkId next = ChunkId::of(1, 0, 1);
  for (std::uint64_t runs = 1 + pick(generator, 200); runs > 0; --runs) {
    const std::uint64_t length = pick(generator, longest_run);
    switch (pick(generator, 4)) {
      case 0:
        model.append(kNoChunk, length);
        break;
      case 1:
        next = ChunkId::of(1, 0, 1 + (generator() >> 25));
        [[fallthrough]];
      default:
        model.append(next, length);
        next.value += length;
    }
  }
  return model;
}

bool same(const PageMap::Run& a, const PageMap::Run& b) {
  return a.first == b.first && a.length == b.length && a.chunk == b.chunk;
}

/// As long as they can be within a segment.
std::vector<PageMap::Run> runs_of(const std::vector<std::uint64_t>& pages) {
  std::vector<PageMap::Run> runs;
  for (std::uint64_t i = 0; i < pages.size(); ++i) {
    const bool goes_on = i % kSegment.value != 0 &&
                         pages[i] == (pages[i] == 0 ? pages[i - 1] : pages[i - 1] + 1) &&
                         (pages[i] == 0) == (pages[i - 1] == 0);
    if (!goes_on) runs.push_back({{i}, {0}, {pages[i]}});
    runs.back().length += PageCount{1};
  }
  return runs;
}

void expect_same(const PageMap& map, const std::vector<std::uint64_t>& pages) {
  ASSERT_EQ(map.size().value, pages.size());
  const std::vector<PageMap::Run> runs = runs_of(pages);
  ASSERT_EQ(map.run_count(), runs.size());
  PageMap::Cursor cursor(map);
  for (const PageMap::Run& run : runs) {
    ASSERT_FALSE(cursor.at_end());
    ASSERT_TRUE(same(cursor.run(), run)) << run.first.value;
    cursor.next();
    for (PageIndex page = run.first; page < run.end(); page += PageCount{1}) {
      const PageMap::Run rest{page, run.end() - page, run.chunk_of(page)};
      ASSERT_TRUE(same(map.whole_run(page), run)) << page.value;
      ASSERT_TRUE(same(map.find(page), rest)) << page.value;
    }
  }
  ASSERT_TRUE(cursor.at_end());
}

TEST(PageMap, AgreesWithAPlainVector) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 30; ++round) {
    const Model model = random_model(generator, 40);
    expect_same(model.map, model.pages);
    const auto copy = copy_by_segments(model.map);
    ASSERT_TRUE(succeeded(copy));
    expect_same(*copy, model.pages);
    for (std::size_t i = 0; i < copy->segment_count(); ++i) {
      EXPECT_EQ(copy->encode_segment(i), model.map.encode_segment(i));
    }
    EXPECT_EQ(copy->memory(), model.map.memory());
  }
}

/// Where reading begins depends on how many bytes the runs before take.
TEST(PageMap, PagesAreFoundWhateverNumberOfRunsIsBefore) {
  for (const std::uint64_t apart : {1, 1 << 5, 1 << 12, 1 << 30}) {
    Model model;
    for (std::uint64_t runs = 0; runs <= 200; ++runs) {
      expect_same(model.map, model.pages);
      model.append(ChunkId::of(1, 0, 1 + 2 * apart * runs), 1 + runs % 3);
      if (runs % 5 == 0) model.append(kNoChunk, 2);
    }
  }
}

TEST(PageMap, CursorBeginsAtAnyPageAndSkipsAnyPart) {
  auto generator = test::seeded_generator();
  Model model = random_model(generator, 30);
  model.append(kNoChunk, kSegment.value);
  model.append(ChunkId::of(2, 0, 9), 50);
  for (int round = 0; round < 500; ++round) {
    PageIndex page{pick(generator, model.pages.size() + 1)};
    for (PageMap::Cursor cursor(model.map, page); !cursor.at_end();) {
      ASSERT_TRUE(same(cursor.rest(), model.map.find(page)));
      ASSERT_TRUE(same(cursor.run(), model.map.whole_run(page)));
      const PageCount part{1 + pick(generator, cursor.rest().length.value)};
      cursor.skip(part);
      page += part;
    }
    ASSERT_EQ(page.value, model.pages.size());
  }
}

TEST(PageMap, DecodedMapGoesOnGrowing) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 30; ++round) {
    Model model = random_model(generator, 40);
    model.append(ChunkId::of(3, 0, 1), 5);
    Model grown{copy_by_segments(model.map).value(), model.pages};
    for (Model* each : {&model, &grown}) {
      if (round % 2 == 0) each->append(kNoChunk, 1);
      each->append(ChunkId::of(3, 0, 6), 5);
    }
    expect_same(grown.map, model.pages);
    EXPECT_EQ(grown.map.run_count(), model.map.run_count());
    EXPECT_EQ(grown.map.encode_segment(0), model.map.encode_segment(0));
  }
}

TEST(PageMap, TakesLittleMemoryForEachRun) {
  auto generator = test::seeded_generator();
  PageMap map;
  std::uint64_t next = ChunkId::of(1, 0, 1).value;
  while (map.size().value < 8 * kSegment.value) {
    const PageCount length{std::min(1 + pick(generator, 7), 8 * kSegment.value - map.size().value)};
    if (pick(generator, 3) == 0) {
      map.append_zero(length);
      continue;
    }
    next += pick(generator, 1000);
    map.append_chunks({next}, length);
    next += length.value;
  }
  EXPECT_LE(map.memory().value, map.run_count() * 4);
  PageMap copy;
  for (std::size_t i = 0; i < map.segment_count(); ++i) {
    const Bytes segment = map.encode_segment(i);
    const ByteCount with = copy.memory_with(segment).value();
    ASSERT_TRUE(succeeded(copy.append_segment(segment, kSegment)));
    EXPECT_EQ(copy.memory(), with) << "known before";
  }
  EXPECT_EQ(copy.memory(), map.memory());
}

TEST(PageMap, SegmentsJoinToTheSameRuns) {
  auto generator = test::seeded_generator();
  const Model model = random_model(generator, 9000);
  const auto copy = copy_by_segments(model.map);
  ASSERT_TRUE(succeeded(copy));
  expect_same(*copy, model.pages);
}

TEST(PageMap, NeighboursMergeIntoOneRun) {
  PageMap map;
  map.append_zero({3});
  map.append_zero({4});
  map.append_chunks(ChunkId::of(1, 0, 10), {2});
  map.append_chunks(ChunkId::of(1, 0, 12), {2});
  map.append_chunks(ChunkId::of(1, 0, 13), {1});
  map.append_zero({0});
  EXPECT_EQ(map.run_count(), 3u);
  const PageMap::Run rest = map.find({8});
  EXPECT_EQ(rest.first, PageIndex{8});
  EXPECT_EQ(rest.length, PageCount{3});
  EXPECT_EQ(rest.chunk, ChunkId::of(1, 0, 11));
  const PageMap::Run whole = map.whole_run({8});
  EXPECT_EQ(whole.first, PageIndex{7});
  EXPECT_EQ(whole.length, PageCount{4});
  EXPECT_EQ(whole.chunk, ChunkId::of(1, 0, 10));
  EXPECT_EQ(map.whole_run({6}).length, PageCount{7});
}

TEST(PageMap, SegmentsHaveAFixedSizeButTheLast) {
  PageMap map;
  map.append_chunks(ChunkId::of(1, 0, 1), kSegment + kSegment + PageCount{1});
  EXPECT_EQ(map.segment_count(), 3u);
  const auto copy = copy_by_segments(map);
  ASSERT_TRUE(succeeded(copy));
  EXPECT_EQ(copy->run_count(), 3u) << "a run ends with its segment";
  EXPECT_EQ(copy->size(), map.size());
  EXPECT_EQ(PageMap().segment_count(), 0u);
}

TEST(PageMap, WorstSegmentFitsItsLimit) {
  PageMap map;
  for (std::uint64_t i = 0; i < kSegment.value; ++i) {
    const bool low = i % 2 == 0;
    map.append_chunks(low ? ChunkId::of(0, 0, 1) : ChunkId::of(0xffff, 0xff, 1), {1});
  }
  const Bytes sealed = map.encode_segment(0);
  EXPECT_LE(sealed.size(), limits::kMaxSegmentBytes);
  EXPECT_EQ(appending(sealed), std::nullopt);
}

TEST(PageMap, SegmentOutOfOrderOrTooLongIsMalformed) {
  PageMap map;
  map.append_zero(kSegment + PageCount{5});
  EXPECT_EQ(appending(map.encode_segment(1)), ErrorCode::kMalformed);
  EXPECT_EQ(appending(map.encode_segment(0), kSegment - PageCount{1}), ErrorCode::kMalformed);
  PageMap after_short;
  after_short.append_zero({5});
  EXPECT_EQ(code_of(after_short.append_segment(sealed_varints({5, 1, zero_run(1)}), kSegment)),
            ErrorCode::kMalformed);
}

TEST(PageMap, SegmentThatLiesAboutItsSizeIsRefused) {
  Bytes sealed = sealed_varints({0, 1, zero_run(1)});
  for (const std::uint32_t said : {0u, 2u, 4u, 900'000u}) {
    store_le(sealed.data() + 8, said);
    EXPECT_GE(PageMap().memory_with(sealed)->value, said);
    EXPECT_EQ(appending(sealed), ErrorCode::kMalformed) << said;
  }
  store_le(sealed.data() + 8, ~std::uint32_t{0});
  EXPECT_EQ(code_of(PageMap().memory_with(sealed)), ErrorCode::kTooLarge);
  EXPECT_EQ(appending(sealed), ErrorCode::kTooLarge);
}

TEST(PageMap, HostileSegmentsAreRefusedByName) {
  const std::uint64_t id = ChunkId::of(1, 0, 7).value;
  const std::uint64_t last = ChunkId::of(1, 0, ChunkId::kMaxSequence).value;
  EXPECT_EQ(appending(sealed_varints({0, 2, chunk_run(2), up(id)})), std::nullopt);
  EXPECT_EQ(appending(sealed_varints({0, 1, chunk_run(1), up(last)})), std::nullopt);
  const std::pair<const char*, Bytes> malformed[] = {
      {"no pages", sealed_varints({0, 0})},
      {"too many pages", sealed_varints({0, kSegment.value + 1, zero_run(kSegment.value + 1)})},
      {"run of no pages", sealed_varints({0, 1, zero_run(0), zero_run(1)})},
      {"run too long", sealed_varints({0, 4, zero_run(5)})},
      {"run of nearly 2^63 pages", sealed_varints({0, 4, ~std::uint64_t{0} - 1})},
      {"chunk 0", sealed_varints({0, 1, chunk_run(1), up(0)})},
      {"sequence 0", sealed_varints({0, 1, chunk_run(1), up(ChunkId::of(1, 0, 0).value)})},
      {"ids past the last sequence", sealed_varints({0, 2, chunk_run(2), up(last)})},
      {"bytes after the last run", sealed_varints({0, 1, zero_run(1), 0})},
      {"zeros that go on", sealed_varints({0, 2, zero_run(1), zero_run(1)})},
      {"chunks that go on", sealed_varints({0, 2, chunk_run(1), up(id), chunk_run(1), up(0)})},
      {"a length of two bytes that fits one", sealed_bytes({0, 1, 0x80 | zero_run(1), 0})},
      {"a count of ten bytes that fits one",
       sealed_bytes({0, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, zero_run(1)})},
      {"ids that wrap", sealed_varints({0, 2, chunk_run(2), up(~std::uint64_t{0} >> 1)})},
  };
  for (const auto& [what, sealed] : malformed) {
    EXPECT_EQ(appending(sealed), ErrorCode::kMalformed) << what;
  }
  const std::pair<const char*, Bytes> truncated[] = {
      {"nothing", sealed_varints({})},
      {"no count", sealed_varints({0})},
      {"no runs", sealed_varints({0, 1})},
      {"no id", sealed_varints({0, 1, chunk_run(1)})},
      {"a number without an end", sealed_bytes({0, 1, 0x80})},
      {"a number of eleven bytes",
       sealed_bytes({0, 1, 0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0})},
  };
  for (const auto& [what, sealed] : truncated) {
    EXPECT_EQ(appending(sealed), ErrorCode::kTruncated) << what;
  }
  EXPECT_EQ(appending(as_bytes("no envelope at all, but long enough")), ErrorCode::kBadMagic);
}

TEST(PageMap, RandomBytesNeverCrash) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 20'000; ++round) {
    Bytes plain{std::byte{0}, static_cast<std::byte>(1 + pick(generator, 100))};
    const Bytes noise = test::random_bytes(generator, pick(generator, 30));
    plain.insert(plain.end(), noise.begin(), noise.end());
    PageMap map;
    if (!map.append_segment(seal_envelope(kSegmentKind, plain), kSegment)) continue;
    EXPECT_EQ(map.size().value, std::to_integer<std::uint64_t>(plain[1]));
  }
}

TEST(PageMap, MapOfTooMuchMemoryIsRefused) {
  PageMap map;
  while (map.memory().value <= limits::kMaxMapBytes) {
    for (std::uint64_t i = 0; i < kSegment.value / 2; ++i) {
      map.append_chunks(ChunkId::of(0, 0, 1), {1});
      map.append_chunks(ChunkId::of(0xffff, 0xff, 1), {1});
    }
  }
  PageMap copy;
  Result<void> appended;
  for (std::size_t i = 0; appended && i < map.segment_count(); ++i) {
    appended = copy.append_segment(map.encode_segment(i), map.size() - copy.size());
  }
  EXPECT_EQ(code_of(appended), ErrorCode::kTooLarge);
  EXPECT_EQ(copy.size() + kSegment, map.size());
  EXPECT_LE(copy.memory().value, limits::kMaxMapBytes);
}

}  // namespace
}  // namespace thaw
