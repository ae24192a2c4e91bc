// The rules for too little memory: what favours may take, and when what is demanded is tried again.

#include "faulthandler/memory_room.h"

#include <gtest/gtest.h>

#include "faulthandler/call_account.h"
#include "faulthandler/limits.h"
#include "faulthandler/memory_shortage.h"

namespace thaw {
namespace {

using namespace std::chrono_literals;
using Of = MemoryLimit::Of;

constexpr std::uint64_t kMiB = 1u << 20;

MemoryLimit limit(Of of, std::uint64_t most_mib, std::uint64_t free_mib) {
  return {of, {most_mib * kMiB}, {free_mib * kMiB}};
}
/// What favours may take of one limit while so much is missing, in MiB.
double allowed(const MemoryLimit& of, std::uint64_t missing_mib) {
  return static_cast<double>(allowance({&of, 1}, {missing_mib * kMiB}).bytes.value) / kMiB;
}

TEST(Allowance, ReserveOfATightCgroupStays) {
  EXPECT_EQ(allowed(limit(Of::kCgroup, 40, 16), 256), 0);
  EXPECT_EQ(allowed(limit(Of::kCgroup, 40, 5), 256), 0);
  EXPECT_GT(allowed(limit(Of::kCgroup, 40, 30), 256), 0);
  EXPECT_EQ(allowed(limit(Of::kCgroup, 1024, 120), 4096), 0) << "an eighth of it";
  EXPECT_GT(allowed(limit(Of::kCgroup, 1024, 130), 4096), 0);
}

TEST(Allowance, MemoryThatFitsAsAWholeMayBeBrought) {
  EXPECT_GT(allowed(limit(Of::kCgroup, 2048 + 40, 100), 80), 0);
  EXPECT_EQ(allowed(limit(Of::kCgroup, 2048 + 40, 100), 90), 0);
  EXPECT_GT(allowed(limit(Of::kFileSystem, 2048, 5), 5), 0) << "a tmpfs just as large";
  EXPECT_EQ(allowed(limit(Of::kFileSystem, 2048, 5), 6), 0);
}

TEST(Allowance, HostKeepsItsReserveWhateverFits) {
  EXPECT_EQ(allowed(limit(Of::kHost, 32 * 1024, 1024), 1), 0);
  EXPECT_GT(allowed(limit(Of::kHost, 32 * 1024, 1100), 1), 0);
  EXPECT_EQ(allowed(limit(Of::kHost, 1024, 64), 1), 0);
}

TEST(Allowance, ComesInPartsAndTheTightestLimitDecides) {
  EXPECT_EQ(allowed(limit(Of::kCgroup, 1u << 20, 1u << 19), 1), limits::kGrantMostBytes / kMiB);
  EXPECT_EQ(allowed(limit(Of::kCgroup, 40, 32), 256), 2) << "an eighth of what is to spare";
  const std::vector<MemoryLimit> all{limit(Of::kHost, 32 * 1024, 20 * 1024),
                                     limit(Of::kCgroup, 512, 300), limit(Of::kFileSystem, 64, 10)};
  const Allowance tight = allowance(all, {256 * kMiB});
  EXPECT_EQ(tight.bytes, ByteCount{0});
  EXPECT_EQ(tight.tightest->of, Of::kFileSystem);
  EXPECT_EQ(allowance({}, {kMiB}).bytes, ByteCount{limits::kGrantMostBytes}) << "none is known";
}

TEST(MemoryRoom, IsOpenWithoutLimitsAndClosedAfterARefusal) {
  MemoryRoom room([] {});
  EXPECT_TRUE(room.open());
  const auto workers = WorkerPool::create(1).value();
  room.begin(*workers, 0);
  EXPECT_TRUE(room.open());
  room.spend({limits::kGrantLeastBytes});
  EXPECT_FALSE(room.open()) << "until it is looked at";
  EXPECT_FALSE(room.open_or_look()) << "of what is behind the memory nothing is known";
  room.set_backing({});
  EXPECT_TRUE(room.open_or_look());
  room.note_refusal();
  EXPECT_FALSE(room.open_or_look()) << "the kernel knows better";
}

TEST(CallAccount, OneLongCallOrManyMakeAVmSlow) {
  const Clock::time_point now{1h};
  CallAccount one;
  EXPECT_FALSE(one.note(limits::kSlowBudget - 1ns, now));
  EXPECT_FALSE(one.slow());
  EXPECT_TRUE(one.note(limits::kFairCall + 1ns, now));
  EXPECT_TRUE(one.slow());

  CallAccount rare;
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(rare.note(2ms, now + i * 2ms * limits::kSlowShare));
    EXPECT_FALSE(rare.note(limits::kFairCall, now)) << "which counts for nothing";
  }
}

TEST(CallAccount, SlowVmHasToBeQuietForLongerEachTime) {
  Clock::time_point now{1h};
  CallAccount account;
  EXPECT_TRUE(account.begin(now));
  EXPECT_FALSE(account.begin(now));
  EXPECT_FALSE(account.end_if_quiet(now + limits::kQuietFirst - 1ns));
  now += limits::kQuietFirst - 1ns;
  account.note(2ms, now);
  now += limits::kQuietFirst;
  EXPECT_TRUE(account.end_if_quiet(now));
  EXPECT_FALSE(account.end_if_quiet(now));

  EXPECT_TRUE(account.begin(now));
  EXPECT_FALSE(account.end_if_quiet(now + limits::kQuietFirst));
  EXPECT_TRUE(account.end_if_quiet(now += 2 * limits::kQuietFirst));
  now += limits::kSlowForgotten;
  EXPECT_TRUE(account.begin(now));
  EXPECT_TRUE(account.end_if_quiet(now + limits::kQuietFirst));
}

TEST(MemoryShortage, AttemptsComeAtGrowingIntervals) {
  MemoryShortage shortage;
  EXPECT_FALSE(shortage.active());
  const Clock::time_point start{};
  shortage.note(12, start);
  EXPECT_TRUE(shortage.active());
  EXPECT_EQ(shortage.pause(), limits::kMemoryRetryFirst);
  for (int i = 0; i < 20; ++i) shortage.note(12, start + 1s);
  EXPECT_EQ(shortage.pause(), limits::kMemoryRetryMost);
  EXPECT_EQ(shortage.end(start + 9s), 9s);
  EXPECT_FALSE(shortage.active());
  shortage.note(28, start + 10s);
  EXPECT_EQ(shortage.pause(), limits::kMemoryRetryFirst);
  EXPECT_EQ(shortage.error_number(), 28);
}

}  // namespace
}  // namespace thaw
