#include "pageserver/fair_queue.h"

#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "pageserver/identity_shares.h"

namespace thaw::test {
namespace {

using std::chrono::milliseconds;
using Queue = FairQueue<int>;

/// Takes and finishes what is there one after the other; each takes so long.
std::vector<int> do_all(Queue& queue, const std::map<std::string, milliseconds>& costs) {
  std::vector<int> done;
  while (const auto turn = queue.take()) {
    done.push_back(turn->work);
    queue.finished(turn->tenant, costs.at(turn->tenant.identity));
  }
  return done;
}

TEST(FairQueue, WorkOfOneTenantKeepsItsOrder) {
  Queue queue(1);
  for (int i = 0; i < 4; ++i) queue.push({"a", "x"}, i);
  EXPECT_EQ(do_all(queue, {{"a", milliseconds(1)}}), (std::vector{0, 1, 2, 3}));
}

TEST(FairQueue, QuietIdentityWaitsForOnePieceOfAFlood) {
  Queue queue(1);
  for (int i = 0; i < 100; ++i) queue.push({"flood", "x"}, i);
  const auto first = queue.take();
  ASSERT_TRUE(first);
  queue.push({"quiet", "x"}, 1000);
  queue.finished(first->tenant, milliseconds(50));
  EXPECT_EQ(queue.take()->work, 1000);
}

TEST(FairQueue, TimeCountsAndNotPieces) {
  Queue queue(1);
  for (int i = 0; i < 20; ++i) {
    queue.push({"long", "x"}, 1);
    queue.push({"short", "x"}, 0);
  }
  const auto done = do_all(queue, {{"long", milliseconds(10)}, {"short", milliseconds(1)}});
  EXPECT_LE(std::count(done.begin(), done.begin() + 22, 1), 3);
}

TEST(FairQueue, NamespacesOfAnIdentityShareWhatItGets) {
  Queue queue(1);
  for (int i = 0; i < 50; ++i) queue.push({"a", "busy"}, i);
  for (int i = 0; i < 50; ++i) queue.push({"b", "other"}, 100 + i);
  queue.push({"a", "calm"}, 1000);
  const auto done = do_all(queue, {{"a", milliseconds(5)}, {"b", milliseconds(5)}});
  EXPECT_LE(std::ranges::find(done, 1000) - done.begin(), 4);
  // Another namespace gives the identity no more than its half.
  EXPECT_NEAR(
      static_cast<double>(std::count_if(done.begin(), done.begin() + 40,
                                        [](int work) { return work >= 100 && work < 200; })),
      20, 1);
}

TEST(FairQueue, IdleTimeIsNotSaved) {
  Queue queue(1);
  queue.push({"late", "x"}, 500);
  for (int i = 0; i < 20; ++i) queue.push({"early", "x"}, i);
  EXPECT_EQ(do_all(queue, {{"early", milliseconds(10)}, {"late", milliseconds(10)}}).size(), 21u);
  for (int i = 0; i < 20; ++i) queue.push({"early", "x"}, i);
  for (int i = 0; i < 20; ++i) queue.push({"late", "x"}, 500 + i);
  const auto done = do_all(queue, {{"early", milliseconds(10)}, {"late", milliseconds(10)}});
  const auto late = std::count_if(done.begin(), done.begin() + 20, [](int i) { return i >= 500; });
  EXPECT_NEAR(static_cast<double>(late), 10, 1);
}

TEST(FairQueue, IdentityMayNotOccupyAllThreads) {
  Queue queue(2);
  for (int i = 0; i < 5; ++i) queue.push({"a", std::to_string(i)}, i);
  const auto first = queue.take();
  EXPECT_TRUE(first && queue.take());
  EXPECT_FALSE(queue.take());
  queue.push({"b", "x"}, 100);
  EXPECT_EQ(queue.take()->work, 100);
  queue.finished(first->tenant, milliseconds(1));
  EXPECT_TRUE(queue.take());
}

TEST(IdentityShares, AnIdentityLeavesAsMuchAsItTakes) {
  constexpr ShareLimits kLimits{.all = 1024, .sure = 4};
  EXPECT_TRUE(may_take("a", 1, {511, 511}, kLimits));
  EXPECT_FALSE(may_take("a", 1, {512, 512}, kLimits));
  EXPECT_TRUE(may_take("b", 1, {0, 512}, kLimits));
  EXPECT_TRUE(may_take("b", 256, {0, 512}, kLimits));
  EXPECT_FALSE(may_take("b", 513, {0, 512}, kLimits));
  EXPECT_TRUE(may_take("b", 1, {3, 1023}, kLimits)) << "it is sure of four";
  EXPECT_FALSE(may_take("b", 1, {4, 1023}, kLimits));
  EXPECT_FALSE(may_take("b", 1, {0, 1024}, kLimits));
  EXPECT_FALSE(may_take("a", 1, {8, 8}, {.all = 1024, .sure = 8, .most = 8}));
}

TEST(IdentityShares, PeersOfThisHostWithoutACertificateMayHaveAll) {
  EXPECT_TRUE(may_take("", 1, {1023, 1023}, {.all = 1024, .sure = 4}));
  EXPECT_FALSE(may_take("", 1, {1024, 1024}, {.all = 1024, .sure = 4}));
}

TEST(IdentityShares, WhatIsGivenBackMayBeTakenAgain) {
  constexpr ShareLimits kLimits{.all = 10, .sure = 2};
  IdentityShares shares;
  auto first = shares.take("a", 4, kLimits);
  ASSERT_TRUE(first);
  EXPECT_FALSE(shares.take("a", 3, kLimits));
  const auto other = shares.take("b", 1, kLimits);
  EXPECT_TRUE(other);
  EXPECT_FALSE(first->resize(9, kLimits));
  EXPECT_TRUE(first->resize(5, kLimits));
  EXPECT_EQ(shares.taken("a").by_identity, 5u);
  EXPECT_TRUE(first->resize(0, kLimits));
  EXPECT_EQ(shares.taken("a").by_identity, 0u);
  first.reset();
  EXPECT_TRUE(shares.take("a", 2, kLimits));
  EXPECT_EQ(shares.taken().by_all, 1u) << "what nothing holds is given back";
}

}  // namespace
}  // namespace thaw::test
