// The rules of a session, without system calls: page states, what rides along with a demanded page,
// and where the loop goes.

#include "faulthandler/fault_core.h"

#include <map>

#include <gtest/gtest.h>

#include "faulthandler/placement.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Need = FaultCore::Need;
using namespace std::chrono_literals;

PageMap small_map() {
  PageMap map;
  map.append_chunks({100}, {8});
  map.append_zero({8});
  return map;
}
using Pages = std::vector<PageState>;
Need fault(FaultCore& core, std::uint64_t page) { return core.on_fault({{page}, {1}}); }

TEST(FaultCore, FirstFaultFetchesAndLaterOnesWait) {
  const PageMap map = small_map();
  Pages core_pages(16);
  FaultCore core(map, core_pages, 1);
  EXPECT_EQ(fault(core, 3), Need::kFetch);
  EXPECT_EQ(fault(core, 3), Need::kWait);
  core.on_filled({3});
  EXPECT_EQ(fault(core, 3), Need::kWake);
  EXPECT_EQ(fault(core, 9), Need::kZero);
  EXPECT_EQ(core.faults(),
            (FaultCounters{
                .total = 4, .fetched = 1, .coalesced = 1, .zero = 1, .removed = 0, .present = 1}));
}

TEST(FaultCore, RemovedPageIsZeroedNotRefetched) {
  const PageMap map = small_map();
  Pages core_pages(16);
  FaultCore core(map, core_pages, 1);
  fault(core, 3);
  core.on_filled({3});
  core.on_remove({0}, {16});
  EXPECT_EQ(fault(core, 3), Need::kZero);
  core.on_filled({3});
  EXPECT_EQ(fault(core, 3), Need::kZero);
  EXPECT_EQ(core.present_pages(), 0u);
}

TEST(FaultCore, PageRemovedWhileItsChunkIsOnTheWayTakesNoContent) {
  const PageMap map = small_map();
  Pages core_pages(16);
  FaultCore core(map, core_pages, 1);
  fault(core, 3);
  EXPECT_TRUE(core.takes_content({3}));
  core.on_remove({3}, {1});
  EXPECT_FALSE(core.takes_content({3}));
}

TEST(FaultCore, PageWhoseMemoryIsGoneIsAskedForAnewIfItComesBack) {
  const PageMap map = small_map();
  Pages core_pages(16);
  FaultCore core(map, core_pages, 1);
  EXPECT_EQ(fault(core, 3), Need::kFetch);
  core.on_gone({{3}, {1}});
  EXPECT_EQ(fault(core, 3), Need::kFetch);
  core.on_filled({3});
  core.on_gone({{3}, {1}});
  EXPECT_EQ(core.state({3}), PageState::kPresent);
}

TEST(FaultCore, HugePageIsZeroOnlyAsAWhole) {
  PageMap map;
  map.append_zero({512});
  map.append_zero({511});
  map.append_chunks({7}, {1});
  Pages core_pages(1024);
  FaultCore core(map, core_pages, 64);
  EXPECT_EQ(core.on_fault({{0}, {512}}), Need::kZero);
  EXPECT_EQ(core.on_fault({{512}, {512}}), Need::kFetch);
  EXPECT_EQ(core.state({700}), PageState::kWanted);
  EXPECT_EQ(core.on_fault({{512}, {512}}), Need::kWait);
  core.on_remove({512}, {512});
  EXPECT_EQ(core.on_fault({{512}, {512}}), Need::kZero);
}

TEST(FaultCore, AnyHistoryKeepsTheRules) {
  auto generator = seeded_generator();
  const PageMap map = small_map();
  Pages core_pages(16);
  FaultCore core(map, core_pages, 8);
  std::map<std::uint64_t, bool> removed;
  std::map<std::uint64_t, bool> filled;
  for (int i = 0; i < 20000; ++i) {
    const PageIndex page{pick(generator, 16)};
    const PageState before = core.state(page);
    switch (pick(generator, 5)) {
      case 4:
        core.on_coming(page);
        ASSERT_EQ(core.state(page), before == PageState::kMissing || before == PageState::kProbe
                                        ? PageState::kComing
                                        : before);
        break;
      case 0: {
        const auto need = fault(core, page.value);
        if (removed[page.value] ||
            (map.find(page).zero() && !filled[page.value] && !core.is_awaited(page))) {
          ASSERT_EQ(need, Need::kZero);
        } else if (filled[page.value]) {
          ASSERT_EQ(need, Need::kWake);
        } else {
          ASSERT_TRUE(need == (before == PageState::kComing   ? Need::kHurry
                               : before == PageState::kWanted ? Need::kWait
                                                              : Need::kFetch));
        }
        if (need != Need::kFetch) break;
        core.around(page, {{0}, {16}}, 64, [&](PageIndex rider) {
          ASSERT_FALSE(removed[rider.value] || filled[rider.value] || rider == page);
          ASSERT_FALSE(map.find(rider).zero());
        });
        break;
      }
      case 1:
        if (pick(generator, 50) != 0) break;
        core.on_remove(page, {1});
        removed[page.value] = true;
        break;
      case 2:
        ASSERT_EQ(core.on_left_out(page),
                  before == PageState::kWanted || before == PageState::kComing
                      ? before == PageState::kWanted
                      : false);
        break;
      default:
        core.on_filled(page);
        filled[page.value] = true;
    }
    ASSERT_EQ(core.takes_content(page), !removed[page.value]);
  }
}

class AroundTest : public testing::Test {
 protected:
  AroundTest() {
    map_.append_chunks({1000}, {40});
    map_.append_chunks({5000}, {24});
    map_.append_zero({64});
  }
  /// Faults on a page that is missing, and returns what rides along.
  std::vector<std::uint64_t> riders(FaultCore& core, std::uint64_t page, PageRange region,
                                    std::size_t most = 64) {
    EXPECT_EQ(fault(core, page), Need::kFetch);
    std::vector<std::uint64_t> riders;
    core.around({page}, region, most, [&](PageIndex rider) { riders.push_back(rider.value); });
    return riders;
  }

  static constexpr PageRange kAll{{0}, {128}};
  PageMap map_;
};

TEST_F(AroundTest, NeighboursStayInTheBlockTheRunAndTheRegion) {
  Pages core_pages(128);
  FaultCore core(map_, core_pages, 8);
  for (const std::uint64_t page : riders(core, 18, kAll)) EXPECT_EQ(page / 8, 2u);
  for (const std::uint64_t page : riders(core, 41, kAll)) EXPECT_EQ(page / 8, 5u);
  Pages wide_pages(128);
  FaultCore wide(map_, wide_pages, 64);
  for (const std::uint64_t page : riders(wide, 37, {{36}, {3}}))
    EXPECT_TRUE(page >= 36 && page < 39);
}

TEST_F(AroundTest, RiderIsNoNeighbourTwiceAndIsCoalescedWhenItIsFaultedOn) {
  Pages core_pages(128);
  FaultCore core(map_, core_pages, 8);
  const auto first = riders(core, 16, kAll);
  ASSERT_GE(first.size(), 6u);  // one may be left out
  EXPECT_EQ(fault(core, first.front()), Need::kHurry);
  EXPECT_EQ(fault(core, first.front()), Need::kWait);
  EXPECT_TRUE(core.on_left_out({first.front()})) << "a vCPU waits: it is asked for again";
  EXPECT_FALSE(core.on_left_out({first.back()}));
  EXPECT_EQ(core.state({first.back()}), PageState::kMissing);
}

TEST_F(AroundTest, RemovedPageNeverRides) {
  Pages core_pages(128);
  FaultCore core(map_, core_pages, 8);
  core.on_remove({18}, {1});
  for (const std::uint64_t page : riders(core, 16, kAll)) EXPECT_LT(page, 18u);
  for (const std::uint64_t page : riders(core, 20, kAll)) EXPECT_GT(page, 18u);
}

/// The page that the first fault of a core with this map leaves out.
std::uint64_t left_out(const FaultCore& core) {
  for (std::uint64_t page = 0; page < core.page_count().value; ++page) {
    if (core.state({page}) == PageState::kProbe) return page;
  }
  ADD_FAILURE() << "none is left out";
  return 0;
}

TEST_F(AroundTest, PageThatWasLeftOutCountsAsAskedForOnlyWhenTheGuestFaultsOnIt) {
  for (const bool asked : {true, false}) {
    Pages core_pages(128);
    FaultCore core(map_, core_pages, 8);
    // It may be the faulting page's turn to be left out, which cannot be.
    for (std::uint64_t page = 0; page < 40 && core.window().probes() == 0; page += 8) {
      riders(core, page, kAll);
    }
    ASSERT_EQ(core.window().probes(), 1u);
    const std::uint64_t probe = left_out(core);
    if (asked) {
      EXPECT_EQ(fault(core, probe), Need::kFetch);
    } else {
      core.on_remove({probe}, {1});
    }
    EXPECT_EQ(core.window().hits(), asked ? 1u : 0u);
    EXPECT_EQ(core.window().probes(), asked ? 1u : 0u) << "one that was given back tells nothing";
  }
}

TEST_F(AroundTest, PrefetchedPagesNeverMakeTheWindowGrow) {
  map_ = {};
  map_.append_chunks({1000}, {65536});
  Pages core_pages(65536);
  FaultCore core(map_, core_pages, 64);
  // More than the ring of those that were left out has room for.
  for (std::uint64_t page = 0; page + 64 < 65536; page += 64) {
    riders(core, page, {{0}, {65536}});
    for (std::uint64_t i = page; i < page + 64; ++i) {
      if (core.state({i}) == PageState::kProbe) core.on_coming({i});
      core.on_filled({i});
    }
  }
  EXPECT_EQ(core.window().hits(), 0u);
  EXPECT_EQ(core.window().probes(), 0u);
  EXPECT_LE(core.window().size(), 8u);
}

TEST(FaultCore, PageThatIsGivenBackTwiceIsRemovedOnce) {
  const PageMap map = small_map();
  Pages core_pages(16);
  FaultCore core(map, core_pages, 1);
  core.on_remove({0}, {8});
  core.on_remove({4}, {8});
  EXPECT_EQ(core.removed_pages(), 12u);
}

TEST(FaultCore, RangesAreGivenBackPageByPage) {
  const PageMap map = small_map();
  for (std::uint64_t first = 0; first < 16; ++first) {
    for (std::uint64_t count = 1; first + count <= 16; ++count) {
      Pages core_pages(16);
      FaultCore core(map, core_pages, 1);
      core.on_filled({9});
      fault(core, 3);
      core.on_remove({8}, {1});
      const auto is_in = [&](std::uint64_t page) { return page >= first && page < first + count; };
      EXPECT_EQ(core.on_remove({first}, {count}), is_in(3));
      EXPECT_EQ(core.removed_pages(), count + (is_in(8) ? 0 : 1));
      EXPECT_EQ(core.present_pages(), is_in(9) ? 0u : 1u);
      for (std::uint64_t page = 0; page < 16; ++page) {
        EXPECT_EQ(core_pages[page] == PageState::kRemoved, page == 8 || is_in(page)) << page;
      }
    }
  }
}

TEST_F(AroundTest, OfferedRoomIsTheLimit) {
  Pages core_pages(128);
  FaultCore core(map_, core_pages, 8);
  EXPECT_EQ(riders(core, 16, kAll, 2).size(), 2u);
  Pages off_pages(128);
  FaultCore off(map_, off_pages, 1);
  EXPECT_TRUE(riders(off, 16, kAll).empty());
}

TEST_F(AroundTest, ZerosAreFilledTogetherUpToTheNextPageThatIsNot) {
  Pages core_pages(128);
  FaultCore core(map_, core_pages, 8);
  EXPECT_EQ(core.zeros_around({71}, kAll), (PageRange{{71}, {1}})) << "none beside it yet";
  EXPECT_EQ(core.zeros_around({127}, kAll), (PageRange{{127}, {1}}));
  core.on_filled({72});
  EXPECT_EQ(core.zeros_around({71}, kAll), (PageRange{{64}, {8}}));
  EXPECT_EQ(core.zeros_around({73}, kAll), (PageRange{{73}, {7}}));
  core.on_remove({66}, {1});
  EXPECT_EQ(core.zeros_around({71}, kAll), (PageRange{{67}, {5}}));
  EXPECT_EQ(core.zeros_around({71}, {{70}, {2}}), (PageRange{{70}, {2}}));
}

TEST(AroundWindow, GrowsWhileWhatIsLeftOutIsAskedForAndShrinksToNothingElse) {
  AroundWindow window(64);
  EXPECT_EQ(window.size(), 8u);
  for (int i = 0; i < 64; ++i) {
    window.on_probe(AroundWindow::Expired::kNone);
    window.on_hit();
  }
  EXPECT_EQ(window.size(), 64u);
  AroundWindow idle(64);
  for (int i = 0; i < 64; ++i) idle.on_probe(AroundWindow::Expired::kNone);
  EXPECT_EQ(idle.size(), 1u);
  EXPECT_EQ(idle.next_probe_size(), 1u);
  std::uint32_t largest = 1;
  for (int i = 0; i < 64; ++i) largest = std::max(largest, idle.next_probe_size());
  EXPECT_GT(largest, 1u) << "it goes on looking";
}

TEST(AroundWindow, ForgetsWhatIsNotLookedAtAnyMore) {
  AroundWindow window(64);
  for (int i = 0; i < 64; ++i) window.on_probe(AroundWindow::Expired::kNone);
  for (int i = 0; i < 64; ++i) {
    window.on_probe(AroundWindow::Expired::kMiss);
    window.on_hit();
  }
  EXPECT_GT(window.size(), 1u) << "old misses weigh nothing";
}

class PlacementPolicyTest : public testing::Test {
 protected:
  using May = PlacementPolicy::May;
  static constexpr int kSpread = -1;  // faults from several CPUs
  static constexpr int kQuiet = -2;   // no faults

  PlacementPolicy::Decision look(int hot, Nanoseconds queued = 0ns) {
    now_ += 2ms;
    return policy_.decide({.now = now_,
                           .faults = hot == kQuiet ? 0u : 1u,
                           .other_vm = std::exchange(other_vm_, false),
                           .examined = hot != kQuiet,
                           .hot_cpu = hot < 0 ? std::nullopt : std::optional(hot),
                           .queued = queued,
                           .starves = std::exchange(starves_, false)});
  }

  PlacementPolicy policy_{May::kFollow};
  Clock::time_point now_ = Clock::now();
  bool other_vm_ = false;
  bool starves_ = false;
};

TEST_F(PlacementPolicyTest, FollowsTheCpuThatFaults) {
  EXPECT_EQ(look(1).cpu, 1);
  EXPECT_EQ(look(kQuiet).cpu, 1) << "no reason to move";
  EXPECT_EQ(look(0).cpu, 0);
  EXPECT_EQ(look(kSpread).cpu, std::nullopt);
}

TEST_F(PlacementPolicyTest, IsLetGoWhenItQueuesForLongerEachTime) {
  EXPECT_EQ(look(1).cpu, 1);
  EXPECT_EQ(look(1, 600us).cpu, std::nullopt);
  int first = 0;
  while (!look(1).cpu) ++first;
  EXPECT_EQ(look(1, 600us).cpu, std::nullopt);
  int second = 0;
  while (!look(1).cpu) ++second;
  EXPECT_GT(second, first);
}

TEST_F(PlacementPolicyTest, IsLetGoWhenItStarves) {
  EXPECT_EQ(look(1).cpu, 1);
  starves_ = true;
  EXPECT_EQ(look(kQuiet).cpu, std::nullopt) << "a loop that does not run reads no faults";
  EXPECT_EQ(look(1).cpu, std::nullopt);
}

TEST_F(PlacementPolicyTest, OtherVmIsSeenTwiceBeforeItIsFollowed) {
  EXPECT_EQ(look(1).cpu, 1);
  other_vm_ = true;
  EXPECT_EQ(look(0).cpu, std::nullopt);
  EXPECT_EQ(look(0).cpu, 0);
}

TEST_F(PlacementPolicyTest, SpinsInTheRestoreWindowForFaultsFromSeveralCpus) {
  EXPECT_FALSE(look(kSpread).spin) << "no VM has begun";
  policy_.on_restore(now_);
  EXPECT_TRUE(look(kSpread).spin);
  EXPECT_FALSE(look(kSpread, 60us).spin) << "others want the CPU";
  EXPECT_FALSE(look(1).spin) << "it follows";
  now_ += 3s;
  EXPECT_FALSE(look(kSpread).spin) << "the window is over";
}

TEST_F(PlacementPolicyTest, SpinsForAnyFaultsWhereItMayNotFollow) {
  policy_ = PlacementPolicy(May::kSpinAlone);
  policy_.on_restore(now_);
  EXPECT_EQ(look(1), (PlacementPolicy::Decision{.cpu = std::nullopt, .spin = true}));
}

TEST(Placement, FlagsAreReadStrictly) {
  using Mode = PlacementOptions::Mode;
  EXPECT_EQ(parse_placement("follow")->mode, Mode::kFollow);
  EXPECT_EQ(parse_placement("free")->mode, Mode::kFree);
  EXPECT_EQ(parse_placement("3")->cpu, 3);
  for (const char* const text : {"", "Follow", "-1", "1 ", "1x", "99999999"}) {
    EXPECT_EQ(code_of(parse_placement(text)), ErrorCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(*parse_spin("auto"), std::nullopt);
  EXPECT_EQ(**parse_spin("25"), Nanoseconds(25us));
  for (const char* const text : {"", "-5", "100001", "5us"}) {
    EXPECT_EQ(code_of(parse_spin(text)), ErrorCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace thaw::test
