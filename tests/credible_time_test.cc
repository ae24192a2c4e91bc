#include "pageserver/credible_time.h"

#include <gtest/gtest.h>

#include "pageserver/limits.h"
#include "tests/support/set_clocks.h"

namespace thaw::test {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr hours kYears{70 * 365 * 24};

class CredibleTimeTest : public testing::Test {
 protected:
  /// The program ends and begins again.
  void restart(std::uint64_t known_unix_ms) {
    time_.emplace(clocks_.source());
    time_->begin(known_unix_ms);
  }
  std::uint64_t now() { return time_->now_unix_ms(); }

  SetClocks clocks_;
  std::optional<CredibleTime> time_{std::in_place, clocks_.source()};
};

TEST_F(CredibleTimeTest, WallClockSettlesInADay) {
  clocks_.pass(hours(23));
  EXPECT_FALSE(time_->wall().settled);
  clocks_.pass(hours(1));
  EXPECT_TRUE(time_->wall().settled);
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
}

TEST_F(CredibleTimeTest, SmallCorrectionsAreNoJumps) {
  clocks_.pass(hours(24));
  clocks_.shift(minutes(4));
  EXPECT_TRUE(time_->wall().settled);
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
  clocks_.shift(-minutes(4));
  EXPECT_TRUE(time_->wall().settled);
  EXPECT_EQ(now(), clocks_.wall_unix_ms() + 4 * 60'000) << "it does not go back";
}

TEST_F(CredibleTimeTest, JumpIsNotBelieved) {
  clocks_.pass(hours(24));
  const std::uint64_t before = now();
  clocks_.shift(kYears);
  clocks_.pass(seconds(2));
  EXPECT_FALSE(time_->wall().settled);
  EXPECT_EQ(now(), before + 2'000) << "the monotonic clock moves it on";
  clocks_.shift(-kYears);
  EXPECT_EQ(now(), before + 2'000);
  EXPECT_FALSE(time_->wall().settled) << "it settles anew";
  clocks_.pass(hours(24));
  EXPECT_TRUE(time_->wall().settled);
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
}

TEST_F(CredibleTimeTest, ClockThatStaysAheadIsBelievedAfterADay) {
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
  clocks_.shift(hours(48));
  EXPECT_LT(now(), clocks_.wall_unix_ms());
  clocks_.pass(hours(24));
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
}

TEST_F(CredibleTimeTest, TimeNeverGoesBack) {
  const std::uint64_t before = now();
  clocks_.shift(-kYears);
  clocks_.pass(seconds(1));
  EXPECT_EQ(now(), before + 1'000);
  clocks_.pass(hours(48));
  EXPECT_GT(now(), before);
  restart(before);
  EXPECT_EQ(now(), before);
}

TEST_F(CredibleTimeTest, StopOfAWeekIsBelievedAtAStart) {
  const std::uint64_t before = now();
  clocks_.pass(hours(7 * 24));
  restart(before);
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
  EXPECT_FALSE(time_->wall().settled);
}

TEST_F(CredibleTimeTest, ClockYearsAheadIsNotBelievedAtAStart) {
  const std::uint64_t before = now();
  clocks_.shift(kYears);
  restart(before);
  clocks_.pass(seconds(5));
  EXPECT_EQ(now(), before + 5'000);
  EXPECT_EQ(time_->known_unix_ms(), before + 5'000);
}

/// A wall clock that was wrong before anything was stored leaves nothing behind.
TEST_F(CredibleTimeTest, LookAtAWrongClockIsForgotten) {
  clocks_.shift(kYears);
  restart(0);
  EXPECT_EQ(time_->known_unix_ms(), 0u);
  clocks_.shift(-kYears);
  EXPECT_EQ(time_->known_unix_ms(), 0u);
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
}

TEST_F(CredibleTimeTest, ClockBeforeTheFirstReleaseNeverSettles) {
  clocks_.now.wall = hours(2 * 365 * 24);
  restart(0);
  clocks_.pass(hours(48));
  EXPECT_FALSE(time_->wall().settled);
  const std::uint64_t before = now();
  EXPECT_EQ(before, clocks_.wall_unix_ms()) << "nothing better is known";
  clocks_.shift(-hours(24));
  EXPECT_EQ(now(), before);
  restart(before);
  EXPECT_EQ(now(), before);
  clocks_.shift(kYears);
  EXPECT_EQ(now(), clocks_.wall_unix_ms());
  clocks_.shift(-kYears);
  clocks_.pass(seconds(1));
  EXPECT_GT(now(), clocks_.wall_unix_ms());
}

TEST_F(CredibleTimeTest, ManyLooksLoseNothing) {
  const std::uint64_t before = now();
  clocks_.shift(-kYears);
  for (int i = 0; i < 1000; ++i) {
    clocks_.now.monotonic += std::chrono::microseconds(500);
    now();
  }
  EXPECT_EQ(now(), before + 500);
}

}  // namespace
}  // namespace thaw::test
