#include "tests/sim/snapshot.h"

#include <algorithm>

#include "base/check.h"
#include "format/pack.h"
#include "tests/sim/random.h"
#include "tests/support/store_of.h"

namespace thaw::sim {

namespace {

constexpr std::size_t kShapes = 12;
constexpr std::uint16_t kNamespace = 1;

PlainPage draw_page(Random& random) {
  PlainPage page{};
  const bool compresses = !random.chance(100);
  const std::uint64_t pattern = random.next();
  for (std::size_t i = 0; i < page.size(); ++i) {
    const std::uint64_t bits = compresses ? pattern >> (i / 8 % 8) : random.next();
    page[i] = static_cast<std::byte>(bits);
  }
  return page;
}

/// Gives the memory its pages: in runs of zeros, of chunks of their own, and of chunks that an
/// earlier page has.
void draw_memory(Random& random, std::uint64_t pages, PageMap& map, StoredSnapshot& to,
                 std::vector<PlainPage>& plain) {
  ChunkCodec codec;
  std::vector<PlainPage>& distinct = to.distinct;
  const unsigned zeros = static_cast<unsigned>(random.from_to(50, 500));
  while (plain.size() < pages) {
    const std::uint64_t length = std::min(random.from_to(1, 40), pages - plain.size());
    if (random.chance(zeros)) {
      map.append_zero({length});
      plain.insert(plain.end(), length, PlainPage{});
      continue;
    }
    const bool again = !distinct.empty() && random.chance(200);
    const std::uint64_t first = again ? random.below(distinct.size()) : distinct.size();
    const std::uint64_t count =
        again ? std::min(length, std::uint64_t{distinct.size()} - first) : length;
    map.append_chunks(ChunkId::of(kNamespace, 0, first + 1), {count});
    for (std::uint64_t i = 0; i < count; ++i) {
      if (!again) {
        distinct.push_back(draw_page(random));
        codec.encode(distinct.back(), ChunkId::of(kNamespace, 0, distinct.size()),
                     to.chunks.emplace_back());
      }
      plain.push_back(distinct[first + i]);
    }
  }
  for (const PlainPage& page : plain) to.contents.push_back(content_of(page));
}

/// One to three regions of any sizes.
std::vector<RegionShape> draw_regions(Random& random, std::uint64_t pages) {
  std::vector<RegionShape> regions;
  std::uint64_t first = 0;
  for (std::uint64_t left = random.from_to(1, 3); left > 0; --left) {
    const std::uint64_t count =
        left == 1 ? pages - first : random.from_to(1, pages - first - left + 1);
    regions.push_back({{count * kPageBytes}, {first * kPageBytes}, {kPageBytes}});
    first += count;
  }
  return regions;
}

void draw_working_set(Random& random, const PageMap& map, StoredSnapshot& to,
                      const std::vector<PlainPage>& plain) {
  WorkingSet& set = to.working_set;
  set.snapshot = {5};
  set.generation = 7;
  set.recordings = 1;
  std::vector<std::uint64_t> pages(plain.size());
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = i;
  random.shuffle(pages);
  pages.resize(random.from_to(1, pages.size()));
  std::size_t content = 0;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    set.pages.push_back(
        {.page = {pages[i]}, .when = static_cast<TouchClass>(i * 3 / pages.size()), .seen = 1});
    if (map.chunk_of({pages[i]}).valid()) ++content;
  }
  while (content > 0) {
    const std::size_t count = std::min<std::size_t>(content, random.from_to(1, 64));
    set.packs.push_back({static_cast<std::uint16_t>(count), 1});
    content -= count;
  }
  PackCodec codec;
  const auto packed = packed_pages(set, map, map.size()).value();
  for (std::size_t i = 0; i < packed.size(); ++i) {
    Bytes content_bytes;
    for (const PackPage& page : packed[i]) {
      content_bytes.insert(content_bytes.end(), plain[page.page.value].begin(),
                           plain[page.page.value].end());
    }
    to.packs.push_back(codec.encode(packed[i], content_bytes));
    set.packs[i].bytes = static_cast<std::uint32_t>(to.packs.back().size());
  }
}

StoredSnapshot make_snapshot(std::uint64_t number) {
  Random random(number);
  StoredSnapshot snapshot;
  std::vector<PlainPage> plain;
  const std::uint64_t pages = random.from_to(16, 256);
  SnapshotImage image{.origin = {test::store_of(1), "n"}, .manifest = {}, .map = {}};
  draw_memory(random, pages, image.map, snapshot, plain);
  image.manifest.snapshot = {5};
  image.manifest.spec.name = fmt::format("snapshot{}", number);
  image.manifest.spec.memory = bytes_of({pages});
  image.manifest.spec.regions = draw_regions(random, pages);
  draw_working_set(random, image.map, snapshot, plain);
  auto set = PrefetchSet::create(snapshot.working_set, image.map, {pages});
  CHECK(set.has_value());
  snapshot.set = std::make_shared<const PrefetchSet>(*std::move(set));
  snapshot.image = std::make_shared<const SnapshotImage>(std::move(image));
  return snapshot;
}

}  // namespace

std::vector<StoredSnapshot> make_snapshots() {
  std::vector<StoredSnapshot> snapshots;
  for (std::uint64_t i = 0; i < kShapes; ++i) snapshots.push_back(make_snapshot(i));
  return snapshots;
}

}  // namespace thaw::sim
