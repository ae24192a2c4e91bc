// Simulated restores: a thousand worlds, each of a seed. `./x fuzz sim` goes on with others.

#include <gtest/gtest.h>

#include "tests/sim/world.h"

namespace thaw::sim {
namespace {

constexpr std::uint64_t kSeedsPerTest = 100;

const std::vector<StoredSnapshot>& snapshots() {
  static const std::vector<StoredSnapshot> made = make_snapshots();
  return made;
}

class SimulationTest : public testing::TestWithParam<std::uint64_t> {};

TEST_P(SimulationTest, EveryPageIsRightAndNobodyWaitsForEver) {
  for (std::uint64_t seed = GetParam(); seed < GetParam() + kSeedsPerTest; ++seed) {
    SCOPED_TRACE("again: build/release/thaw_sim --trace --seed " + std::to_string(seed));
    EXPECT_EQ(run_seed(seed, snapshots(), Trace::kQuiet).violation, "");
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulationTest,
                         testing::Range<std::uint64_t>(0, 1000, kSeedsPerTest));

TEST(Simulation, SeedRunsTheSameWayEachTimeAndAnotherOneDoesNot) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Outcome first = run_seed(seed, snapshots(), Trace::kQuiet);
    const Outcome again = run_seed(seed, snapshots(), Trace::kQuiet);
    EXPECT_EQ(first.trace_hash, again.trace_hash) << seed;
    EXPECT_NE(first.trace_hash, run_seed(seed + 100, snapshots(), Trace::kQuiet).trace_hash);
  }
}

}  // namespace
}  // namespace thaw::sim
