// Runs the benches on a small image. How fast anything is does not matter here.

#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

TEST(BenchRun, FaultReportsEveryFigure) {
  const ScratchDirectory directory;
  write_file(directory.path("image"), make_image(1, 4096));

  const Outcome outcome = run({program_path("thaw-bench"), "fault", "--quick", "--image",
                               directory.path("image"), "--json", directory.path("json")});

  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const Json json = Json::parse(as_text(read_file(directory.path("json"))));
  EXPECT_EQ(json["bench"], "fault");
  std::set<std::string> names;
  for (const Json& figure : json["results"]) {
    const std::string name = figure["name"];
    EXPECT_TRUE(names.insert(name).second) << name << " is there twice";
    // An idle handler may take no time at all.
    if (name != "fault.idle.cpu_percent") {
      EXPECT_GT(figure["value"], 0) << name;
    }
    EXPECT_GT(figure["floor"], 0) << name;
    EXPECT_GT(figure["n"], 0) << name;
  }
  EXPECT_EQ(names, (std::set<std::string>{
                       "fault.local.near.p50", "fault.local.spin.p50", "fault.local.sleep.p50",
                       "fault.remote.near.p50", "fault.remote.near.p99", "fault.remote.spin.p50",
                       "fault.remote.spin.p99", "fault.remote.sleep.p50", "fault.remote.sleep.p99",
                       "fault.remote.default.p50", "fault.remote.default.p99",
                       "fault.remote.faults_per_s", "fault.zero.p50", "fault.cpu_us_per_fault",
                       "fault.around.hit_rate", "fault.around.sequential_speedup",
                       "fault.sessions64.p99", "fault.idle.cpu_percent"}));
}

TEST(BenchRun, UnknownBenchIsRefused) {
  EXPECT_EQ(run({program_path("thaw-bench"), "nothing"}).exit_code, 2);
}

TEST(BenchRun, WithoutANameTheBenchesAreListed) {
  const Outcome outcome = run({program_path("thaw-bench")});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(outcome.output.starts_with("fault ")) << outcome.output;
}

TEST(BenchRun, ImageOfTooFewPagesIsAFailure) {
  const ScratchDirectory directory;
  write_file(directory.path("image"), make_image(1, 64));
  const Outcome outcome =
      run({program_path("thaw-bench"), "fault", "--quick", "--image", directory.path("image")});
  EXPECT_EQ(outcome.exit_code, 1);
}

}  // namespace
}  // namespace thaw::test
