#include "pageserver/rank.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "format/limits.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::pick;
using test::succeeded;

Recording touching(std::vector<Touch> touches) {
  std::ranges::sort(touches, {}, &Touch::us);
  return {.content_hash = {}, .created_unix_ms = 0, .regions = {}, .touches = std::move(touches)};
}

/// Recordings that share pages, with times around the limits of the classes.
std::vector<Recording> random_recordings(std::mt19937_64& generator) {
  std::vector<Recording> recordings(1 + pick(generator, 12));
  const std::uint64_t pages = 1 + pick(generator, 300);
  for (Recording& recording : recordings) {
    std::vector<Touch> touches;
    for (std::uint64_t page = 0; page < pages; ++page) {
      if (pick(generator, 3) == 0) continue;
      const std::uint32_t around = pick(generator, 2) == 0 ? kFirstUntilUs : kEarlyUntilUs;
      touches.push_back(
          {.page = {page * 7}, .us = static_cast<std::uint32_t>(around - 3 + pick(generator, 6))});
    }
    recording = touching(std::move(touches));
  }
  return recordings;
}

/// The times at which each page was touched, in ascending order.
std::map<std::uint64_t, std::vector<std::uint32_t>> times_by_page(
    const std::vector<const Recording*>& recordings) {
  std::map<std::uint64_t, std::vector<std::uint32_t>> times;
  for (const Recording* const recording : recordings) {
    for (const Touch& touch : recording->touches) times[touch.page.value].push_back(touch.us);
  }
  for (auto& [page, all] : times) std::ranges::sort(all);
  return times;
}

auto place(const SetPage& page) {
  return std::tuple(page.when, -int{page.seen}, page.median_us, page.page);
}

TEST(Rank, IsWhatTheRecordingsSay) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 200; ++round) {
    const std::vector<Recording> all_recordings = random_recordings(generator);
    const auto recordings = ranked(all_recordings);
    const auto times = times_by_page(recordings);
    const std::vector<SetPage> pages = rank(all_recordings);
    for (const SetPage& page : pages) {
      const auto& all = times.at(page.page.value);
      EXPECT_EQ(page.seen, all.size());
      EXPECT_EQ(page.median_us, all[(all.size() - 1) / 2]) << "the lower one of two";
      const TouchClass later =
          page.median_us <= kEarlyUntilUs ? TouchClass::kEarly : TouchClass::kLate;
      EXPECT_EQ(page.when, page.median_us <= kFirstUntilUs ? TouchClass::kFirst : later);
    }
    const auto wanted = std::ranges::count_if(
        times, [&](const auto& entry) { return entry.second.size() * 3 > recordings.size(); });
    EXPECT_EQ(pages.size(), static_cast<std::size_t>(wanted));
    EXPECT_TRUE(std::ranges::is_sorted(pages, std::ranges::less_equal(), place))
        << "each after the one before it, and none twice";
  }
}

TEST(Rank, OrderOfRecordingsDoesNotMatter) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 50; ++round) {
    std::vector<Recording> recordings = random_recordings(generator);
    const std::vector<SetPage> pages = rank(recordings);
    std::ranges::shuffle(recordings, generator);
    EXPECT_EQ(rank(recordings), pages);
  }
}

TEST(Rank, PageOfMoreThanAThirdOfTheRecordingsIsIn) {
  const Recording both = touching({{.page = {1}}, {.page = {2}}});
  const Recording one = touching({{.page = {1}}});
  EXPECT_EQ(rank(std::vector{both, one}).size(), 2u);
  EXPECT_EQ(rank(std::vector{both, both, one, one, one}).size(), 2u);
  const std::vector<SetPage> pages = rank(std::vector{both, one, one});
  ASSERT_EQ(pages.size(), 1u);
  EXPECT_EQ(pages[0].page, PageIndex{1});
  EXPECT_EQ(pages[0].seen, 3u);
  EXPECT_TRUE(rank({}).empty());
  EXPECT_TRUE(rank(std::vector{touching({})}).empty());
}

/// One that touches so many pages.
Recording of_size(std::uint64_t pages) {
  std::vector<Touch> touches;
  for (std::uint64_t page = 0; page < pages; ++page) touches.push_back({.page = {page}});
  return touching(std::move(touches));
}

TEST(Rank, RecordingThatIsFarSmallerThanItsSiblingsIsNotRanked) {
  const Recording whole = of_size(100);
  const Recording stub = of_size(2);
  EXPECT_EQ(ranked(std::vector{stub}).size(), 1u) << "there is no other";
  EXPECT_EQ(rank(std::vector{stub, whole}).size(), 100u);
  EXPECT_EQ(rank(std::vector{whole, stub, stub, whole}).size(), 100u);
  EXPECT_EQ(ranked(std::vector{whole, whole, of_size(25)}).size(), 3u);
  EXPECT_EQ(ranked(std::vector{whole, whole, of_size(24)}).size(), 2u);
  EXPECT_EQ(ranked(std::vector{whole, whole, of_size(5000)}).size(), 3u) << "a large one counts";
  EXPECT_TRUE(ranked({}).empty());
}

TEST(Rank, BestPagesStayWhenThereAreTooMany) {
  constexpr std::uint64_t kEach = limits::kMaxTouches * 3 / 4;
  std::vector<Touch> early;
  std::vector<Touch> late;
  for (std::uint64_t page = 0; page < kEach; ++page) {
    early.push_back({.page = {kEach + page}, .us = 5});
    late.push_back({.page = {page}, .us = kEarlyUntilUs + 1});
  }
  const std::vector<SetPage> pages = rank(std::vector{touching(late), touching(early)});
  ASSERT_EQ(pages.size(), limits::kMaxTouches);
  EXPECT_EQ(pages[0].page, PageIndex{kEach});
  EXPECT_EQ(pages[kEach - 1].when, TouchClass::kFirst);
  EXPECT_EQ(pages[kEach].page, PageIndex{0});
  EXPECT_EQ(pages.back().page, PageIndex{limits::kMaxTouches - kEach - 1});
}

TEST(Inherit, KeepsWhatBothHaveAtTheSamePlace) {
  PageMap parent;
  parent.append_chunks(ChunkId::of(1, 0, 1), {4});
  parent.append_zero({4});
  PageMap child;
  child.append_chunks(ChunkId::of(1, 0, 1), {3});    // 0, 1, 2 as before
  child.append_chunks(ChunkId::of(1, 0, 100), {2});  // 3, 4 changed, the latter from zero
  child.append_zero({2});                            // 5, 6 still zero
  child.append_chunks(ChunkId::of(1, 0, 4), {1});    // the content of page 3 at 7
  std::vector<SetPage> set;
  for (const std::uint64_t page : {6u, 3u, 4u, 0u, 7u, 2u, 5u}) {
    set.push_back({.page = {page}, .when = TouchClass::kEarly, .seen = 3, .median_us = 9});
  }
  EXPECT_EQ(inherit(set, parent, child, {8}), (std::vector{set[0], set[3], set[5], set[6]}));
  EXPECT_EQ(inherit(set, parent, child, {3}), (std::vector{set[3], set[5]}))
      << "of a child with less memory";
  parent = {};
  parent.append_chunks(ChunkId::of(1, 0, 1), {1});
  EXPECT_EQ(inherit(set, parent, child, {8}), std::vector{set[3]}) << "of a smaller parent";
}

TEST(Judge, CountsThePagesThatWereTouched) {
  const Recording recording = touching({{.page = {1}}, {.page = {5}}, {.page = {9}}});
  EXPECT_EQ(judge(std::vector<SetPage>{{.page = {9}}, {.page = {2}}, {.page = {1}}}, recording),
            2u);
  EXPECT_EQ(judge({}, recording), 0u);
}

/// So many pages of each class, on every third of which is a page of zeros.
struct Classes {
  std::vector<SetPage> pages;
  PageMap map;

  explicit Classes(const std::array<std::uint64_t, 3>& counts) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      for (std::uint64_t n = 0; n < counts[i]; ++n) {
        if (n % 3 == 0) add(kNoChunk, i);
        add(ChunkId::of(1, 0, pages.size() + 1), i);
      }
    }
  }
  TouchClass class_of(PageIndex page) const { return pages[page.value].when; }

 private:
  void add(ChunkId chunk, std::size_t i) {
    pages.push_back({.page = {pages.size()}, .when = static_cast<TouchClass>(i)});
    chunk.valid() ? map.append_chunks(chunk, {1}) : map.append_zero({1});
  }
};

std::vector<int> sizes(const std::array<std::uint64_t, 3>& counts) {
  const Classes classes(counts);
  std::vector<int> found;
  for (const PackShape& pack : pack_groups(classes.pages, classes.map)) found.push_back(pack.pages);
  return found;
}

TEST(PackGroups, FirstPacksAreSmallAndOthersLarge) {
  EXPECT_EQ(sizes({48, 128, 64}), (std::vector{16, 16, 16, 64, 64, 64}));
  EXPECT_EQ(sizes({50, 130, 0}), (std::vector{16, 17, 17, 43, 43, 44}));
  EXPECT_EQ(sizes({0, 0, 65}), (std::vector{32, 33}));
}

TEST(PackGroups, SmallClassesShareAPack) {
  EXPECT_EQ(sizes({5, 100, 0}), (std::vector{16, 44, 45}));
  EXPECT_EQ(sizes({5, 3, 2}), (std::vector{10}));
  EXPECT_EQ(sizes({5, 3, 30}), (std::vector{16, 22}));
  EXPECT_EQ(sizes({16, 3, 0}), (std::vector{19}));
  EXPECT_EQ(sizes({0, 64, 1}), (std::vector{32, 33}));
  EXPECT_EQ(sizes({0, 0, 0}), std::vector<int>{});
}

TEST(PackGroups, PacksKeepTheRules) {
  auto generator = test::seeded_generator();
  for (int round = 0; round < 500; ++round) {
    std::array<std::uint64_t, 3> counts{};
    for (std::uint64_t& count : counts) count = pick(generator, pick(generator, 2) == 0 ? 20 : 200);
    const Classes classes(counts);
    const std::uint64_t total = counts[0] + counts[1] + counts[2];
    WorkingSet set;
    set.pages = classes.pages;
    set.packs = pack_groups(classes.pages, classes.map);
    const auto packs = packed_pages(set, classes.map, classes.map.size());
    ASSERT_TRUE(succeeded(packs)) << counts[0] << ", " << counts[1] << ", " << counts[2];
    std::set<PageIndex> seen;
    for (const auto& pack : *packs) {
      EXPECT_LE(pack.size(), limits::kMaxPackPages);
      EXPECT_GE(pack.size(), std::min<std::size_t>(limits::kMinPackPages, total));
      for (const PackPage& page : pack) EXPECT_TRUE(seen.insert(page.page).second);
      const TouchClass first = classes.class_of(pack.front().page);
      const auto of_first = static_cast<std::size_t>(std::ranges::count_if(
          pack, [&](const PackPage& page) { return classes.class_of(page.page) == first; }));
      EXPECT_TRUE(first != TouchClass::kFirst || pack.size() < 2 * limits::kMinPackPages);
      if (of_first == pack.size() || of_first < limits::kMinPackPages) continue;
      EXPECT_EQ(&pack, &packs->back()) << "it takes in the end of the set alone";
      EXPECT_LT(pack.size() - of_first, limits::kMinPackPages);
    }
    EXPECT_EQ(seen.size(), total);
  }
}

}  // namespace
}  // namespace thaw
