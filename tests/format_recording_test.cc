#include <algorithm>

#include "format/envelope.h"
#include "format/limits.h"
#include "format/recording.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::pick;
using test::succeeded;

/// As FORMAT.md has it, to seal hostile content.
constexpr EnvelopeKind kRecordingKind{.magic = 0x31'43'52'54,
                                      .version = 1,
                                      .most_plain_bytes = limits::kMaxRecordingBytes,
                                      .name = "recording"};

/// A content hash and then varints.
Bytes plain_varints(const std::vector<std::uint64_t>& values) {
  Bytes plain(sizeof(Sha256));
  for (const std::uint64_t value : values) append_varint(plain, value);
  return plain;
}
std::optional<ErrorCode> decoding(const std::vector<std::uint64_t>& values) {
  return code_of(decode_recording(seal_envelope(kRecordingKind, plain_varints(values))));
}

constexpr std::uint64_t demand(std::uint64_t us) { return us << 1; }
/// The zigzag form of a step that is not negative.
constexpr std::uint64_t up(std::uint64_t pages) { return pages << 1; }

Recording random_recording(std::mt19937_64& generator) {
  Recording recording{.content_hash = {},
                      .created_unix_ms = generator(),
                      .regions = {{{4096}, {0}, {4096}}, {{2 << 20}, {4096}, {2 << 20}}},
                      .touches = {}};
  recording.content_hash.fill(std::byte{0xab});
  std::uint32_t us = 0;
  for (std::uint64_t i = pick(generator, 500); i > 0; --i) {
    us += static_cast<std::uint32_t>(pick(generator, 100'000));
    recording.touches.push_back(
        {.page = {pick(generator, limits::kMaxImagePages)},
         .us = us,
         .kind = pick(generator, 2) == 0 ? TouchKind::kDemand : TouchKind::kPrefetch});
  }
  return recording;
}

Manifest snapshot_of(const Recording& recording, PageCount memory) {
  Manifest manifest;
  manifest.content_hash = recording.content_hash;
  manifest.spec.memory = bytes_of(memory);
  return manifest;
}

TEST(Recording, RoundTrips) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 50; ++round) {
    const Recording recording = random_recording(generator);
    const auto back = decode_recording(encode_recording(recording));
    ASSERT_TRUE(succeeded(back));
    EXPECT_EQ(*back, recording);
  }
  EXPECT_EQ(decode_recording(encode_recording({})).value(), Recording{});
}

TEST(Recording, LargestFitsItsLimit) {
  Recording recording{
      .content_hash = {},
      .created_unix_ms = ~std::uint64_t{0},
      .regions = std::vector<RegionShape>(
          limits::kMaxRegions, {{~std::uint64_t{0}}, {~std::uint64_t{0}}, {~std::uint64_t{0}}}),
      .touches = {}};
  for (std::size_t i = 0; i < limits::kMaxTouches; ++i) {
    const bool last = i + 1 == limits::kMaxTouches;
    recording.touches.push_back({.page = {i % 2 == 0 ? limits::kMaxImagePages - 1 : 0},
                                 .us = last ? UINT32_MAX : 0,
                                 .kind = TouchKind::kPrefetch});
  }
  const auto back = decode_recording(encode_recording(recording));
  ASSERT_TRUE(succeeded(back));
  EXPECT_EQ(*back, recording);
}

TEST(Recording, HostileOnesAreRefusedByName) {
  EXPECT_EQ(decoding({7, 0, 2, demand(5), up(9), demand(0), up(1)}), std::nullopt);
  EXPECT_EQ(decoding({7, limits::kMaxRegions + 1}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding({7, ~std::uint64_t{0}}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding({7, 0, limits::kMaxTouches + 1}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding({7, 0, ~std::uint64_t{0}}), ErrorCode::kTooLarge);
  const std::pair<const char*, std::vector<std::uint64_t>> malformed[] = {
      {"page beyond the limit", {7, 0, 1, demand(0), up(limits::kMaxImagePages)}},
      {"page before the first", {7, 0, 1, demand(0), 1}},
      {"time beyond the limit", {7, 0, 1, demand(std::uint64_t{1} << 32), 0}},
      {"times beyond the limit", {7, 0, 2, demand(UINT32_MAX), 0, demand(1), 0}},
      {"bytes after the last touch", {7, 0, 1, demand(0), 0, 0}},
      {"bytes after no touch", {7, 0, 0, 0}},
  };
  for (const auto& [what, values] : malformed) {
    EXPECT_EQ(decoding(values), ErrorCode::kMalformed) << what;
  }
  const std::vector<std::uint64_t> whole{7, 1,         8192,  0,         4096,
                                         2, demand(5), up(9), demand(0), up(1)};
  ASSERT_EQ(decoding(whole), std::nullopt);
  const Bytes plain = plain_varints(whole);
  for (std::size_t size = 0; size < plain.size(); ++size) {
    const Bytes sealed = seal_envelope(kRecordingKind, ByteSpan(plain).first(size));
    EXPECT_EQ(code_of(decode_recording(sealed)), ErrorCode::kTruncated) << size;
  }
}

TEST(Recording, CorruptionIsAlwaysRefusedOrHarmless) {
  auto generator = test::seeded_generator();
  const Recording recording = random_recording(generator);
  const Bytes good = encode_recording(recording);
  for (int round = 0; round < 2000; ++round) {
    Bytes sealed = good;
    sealed[pick(generator, sealed.size())] = static_cast<std::byte>(generator());
    const auto decoded = decode_recording(sealed);
    if (decoded) {
      EXPECT_EQ(*decoded, recording);
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(code_of(decode_recording(ByteSpan(good).first(size))), ErrorCode::kTruncated);
  }
}

TEST(Recording, OnlyThatOfTheSnapshotCounts) {
  const Recording good{.content_hash = {std::byte{1}},
                       .created_unix_ms = 0,
                       .regions = {},
                       .touches = {{.page = {9}, .us = 1}, {.page = {0}, .us = 2}}};
  const auto checking = [&](auto change) {
    Recording recording = good;
    change(recording);
    return code_of(check_recording(recording, snapshot_of(good, {10})));
  };
  EXPECT_EQ(checking([](Recording&) {}), std::nullopt);
  EXPECT_EQ(checking([](Recording& r) { r.content_hash = {}; }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(checking([](Recording& r) { r.touches[0].page = {10}; }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(checking([](Recording& r) { r.touches[0].page = {0}; }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(checking([](Recording& r) { r.touches[1].kind = TouchKind::kPrefetch; }),
            ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace thaw
