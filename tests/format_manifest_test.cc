#include <algorithm>

#include "format/manifest.h"
#include "format/snapshot_name.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::succeeded;

constexpr std::uint64_t kMegabyte = 1 << 20;

SnapshotSpec good_spec() {
  return {.name = "web-1.2_beta",
          .memory = {64 * kMegabyte},
          .state = {12345},
          .regions = {{{40 * kMegabyte}, {0}, {kPageBytes}},
                      {{24 * kMegabyte}, {40 * kMegabyte}, {kHugePageBytes}}},
          .labels = {{"team", "runtime"}, {"empty", ""}},
          .cpu_vendor = "GenuineIntel"};
}

Manifest good_manifest() {
  Manifest manifest{.snapshot = {7},
                    .parent = {3},
                    .created_unix_ms = 1'700'000'000'123,
                    .spec = good_spec(),
                    .content_hash = {},
                    .content_form = ContentForm::kSegments,
                    .statistics = {.zero_pages = 1,
                                   .duplicate_pages = 2,
                                   .new_pages = 3,
                                   .new_chunk_bytes = 4,
                                   .changed_pages = 5,
                                   .became_zero_pages = 6,
                                   .cold_pages = 7}};
  manifest.content_hash.fill(std::byte{0xab});
  return manifest;
}

/// What check_spec() says after `change`.
std::optional<ErrorCode> after(auto change) {
  SnapshotSpec spec = good_spec();
  change(spec);
  return code_of(check_spec(spec));
}

TEST(Manifest, RoundTrips) {
  const Manifest manifest = good_manifest();
  const auto back = decode_manifest(encode_manifest(manifest));
  ASSERT_TRUE(succeeded(back));
  EXPECT_EQ(*back, manifest);
}

TEST(Manifest, RoundTripsWithNothingOptional) {
  Manifest manifest;
  manifest.spec = {.name = "x",
                   .memory = {kPageBytes},
                   .state = {},
                   .regions = {},
                   .labels = {},
                   .cpu_vendor = ""};
  const auto back = decode_manifest(encode_manifest(manifest));
  ASSERT_TRUE(succeeded(back));
  EXPECT_EQ(*back, manifest);
}

TEST(Manifest, TextKeepsItsZeroBytes) {
  Manifest manifest = good_manifest();
  manifest.spec.labels = {{std::string("k\0k", 3), std::string("\0", 1)}};
  const auto back = decode_manifest(encode_manifest(manifest));
  ASSERT_TRUE(succeeded(back));
  EXPECT_EQ(*back, manifest);
}

TEST(Manifest, DecodingChecksTheSpec) {
  Manifest manifest = good_manifest();
  manifest.spec.name = "../etc";
  EXPECT_EQ(code_of(decode_manifest(encode_manifest(manifest))), ErrorCode::kInvalidArgument);
}

TEST(Manifest, CorruptionIsAlwaysRefusedOrHarmless) {
  auto generator = test::seeded_generator();
  const Manifest manifest = good_manifest();
  const Bytes good = encode_manifest(manifest);
  for (int round = 0; round < 5000; ++round) {
    Bytes sealed = good;
    sealed[test::pick(generator, sealed.size())] = static_cast<std::byte>(generator());
    const auto decoded = decode_manifest(sealed);
    if (decoded) {
      EXPECT_EQ(*decoded, manifest);
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(code_of(decode_manifest(ByteSpan(good).first(size))), ErrorCode::kTruncated);
  }
}

TEST(Spec, PageCountsRoundTheStateUp) {
  const SnapshotSpec spec = good_spec();
  EXPECT_EQ(spec.memory_pages(), PageCount{64 * kMegabyte / kPageBytes});
  EXPECT_EQ(spec.state_pages(), PageCount{4});
  EXPECT_EQ(spec.image_pages(), spec.memory_pages() + PageCount{4});
}

TEST(Spec, NamesArePrintableAndShort) {
  EXPECT_EQ(after([](auto&) {}), std::nullopt);
  EXPECT_EQ(after([](auto& s) { s.name = std::string(limits::kMaxNameBytes, 'n'); }), std::nullopt);
  for (const std::string& name :
       {std::string(), std::string(limits::kMaxNameBytes + 1, 'n'), std::string("a b"),
        std::string("a/b"), std::string("a\n"), std::string("a\x7f"), std::string("\xc3\xa4"),
        std::string("a\0b", 3)}) {
    EXPECT_EQ(after([&](auto& s) { s.name = name; }), ErrorCode::kInvalidArgument) << name;
  }
}

TEST(Spec, MemoryIsWholePagesWithinTheLimit) {
  EXPECT_EQ(after([](auto& s) { s.memory = {0}; }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(after([](auto& s) { s.memory.value += 1; }), ErrorCode::kInvalidArgument);
  const std::uint64_t most = limits::kMaxImagePages * kPageBytes;
  const auto without_regions = [](std::uint64_t memory) {
    return after([&](auto& s) { s.memory = {memory}, s.regions.clear(); });
  };
  EXPECT_EQ(without_regions(most), std::nullopt);
  EXPECT_EQ(without_regions(most + kPageBytes), ErrorCode::kTooLarge);
  EXPECT_EQ(without_regions(~std::uint64_t{0} - kPageBytes + 1), ErrorCode::kTooLarge);
}

TEST(Spec, EveryListAndTextHasALimit) {
  EXPECT_EQ(after([](auto& s) { s.state = {limits::kMaxStatePages * kPageBytes + 1}; }),
            ErrorCode::kTooLarge);
  EXPECT_EQ(after([](auto& s) { s.state = {~std::uint64_t{0}}; }), ErrorCode::kTooLarge);
  EXPECT_EQ(after([](auto& s) { s.regions.resize(limits::kMaxRegions + 1); }),
            ErrorCode::kTooLarge);
  EXPECT_EQ(after([](auto& s) { s.labels.resize(limits::kMaxLabels + 1, {"k", "v"}); }),
            ErrorCode::kTooLarge);
  EXPECT_EQ(after([](auto& s) { s.cpu_vendor = std::string(limits::kMaxNameBytes + 1, 'c'); }),
            ErrorCode::kTooLarge);
  const std::string long_text(limits::kMaxLabelBytes + 1, 'l');
  EXPECT_EQ(after([&](auto& s) { s.labels = {{long_text, ""}}; }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(after([&](auto& s) { s.labels = {{"k", long_text}}; }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(after([](auto& s) { s.labels = {{"", "v"}}; }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(check_labels({{"k", "1"}, {"j", ""}, {"k", "2"}})),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(check_labels({{"", "1"}})), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(succeeded(check_labels({{"k", "1"}, {"K", "1"}})));
}

TEST(SnapshotName, MaySayWhatContentItStandsFor) {
  const std::string hex(64, 'a');
  EXPECT_EQ(parse_snapshot_name("web:live").value().name, "web:live");
  EXPECT_EQ(parse_snapshot_name("web@sha1:x").value().content, "");
  const SnapshotName pinned =
      parse_snapshot_name("web:live@sha256:" + std::string(64, 'A')).value();
  EXPECT_EQ(pinned.name, "web:live");
  EXPECT_EQ(pinned.content, hex);
  for (const std::string& digits : {std::string(), hex.substr(1), hex + "a", "g" + hex.substr(1)}) {
    EXPECT_EQ(code_of(parse_snapshot_name("web@sha256:" + digits)), ErrorCode::kInvalidArgument);
  }
}

TEST(Regions, MustTileTheMemoryInOrder) {
  const ByteCount memory{16 * kPageBytes};
  const auto checking = [&](const std::vector<RegionShape>& regions) {
    return code_of(check_regions(regions, memory));
  };
  const RegionShape low{{8 * kPageBytes}, {0}, {kPageBytes}};
  const RegionShape high{{8 * kPageBytes}, {8 * kPageBytes}, {kPageBytes}};
  const auto with = [](RegionShape region, auto change) {
    change(region);
    return region;
  };
  EXPECT_EQ(checking({low, high}), std::nullopt);
  EXPECT_EQ(checking({}), ErrorCode::kRegionMismatch);
  EXPECT_EQ(checking({low}), ErrorCode::kRegionMismatch) << "a gap at the end";
  EXPECT_EQ(checking({high}), ErrorCode::kRegionMismatch) << "a gap at the start";
  EXPECT_EQ(checking({high, low}), ErrorCode::kRegionMismatch) << "order";
  EXPECT_EQ(checking({low, low}), ErrorCode::kRegionOverlap);
  EXPECT_EQ(checking({low, high, high}), ErrorCode::kRegionOverlap);
  EXPECT_EQ(checking({low, with(high, [](auto& r) { r.size.value *= 2; })}),
            ErrorCode::kRegionMismatch)
      << "beyond the memory";
  EXPECT_EQ(checking({low, with(high, [](auto& r) { r.size = {0 - std::uint64_t{kPageBytes}}; })}),
            ErrorCode::kRegionMismatch)
      << "wraps around";
  EXPECT_EQ(checking({with(low, [](auto& r) { r.size = {0}; })}), ErrorCode::kRegionUnaligned);
  EXPECT_EQ(checking({with(low, [](auto& r) { r.size.value += 1; })}), ErrorCode::kRegionUnaligned);
  EXPECT_EQ(checking({low, with(high, [](auto& r) { r.offset.value += 1; })}),
            ErrorCode::kRegionUnaligned);
  for (const std::uint64_t page_size : {0u, 1u, 8192u, 1u << 30}) {
    EXPECT_EQ(checking({with(low, [&](auto& r) { r.page_size = {page_size}; }), high}),
              ErrorCode::kRegionMismatch)
        << page_size;
  }
  EXPECT_EQ(checking({with(low, [](auto& r) { r.page_size = {kHugePageBytes}; }), high}),
            ErrorCode::kRegionUnaligned);
}

}  // namespace
}  // namespace thaw
