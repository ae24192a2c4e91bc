// Runs the benches on small images. How fast anything is does not matter here.

#include <filesystem>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

/// The names of all figures of a quick run, each of which has to be there once and to be sound.
std::set<std::string> measure(const std::string& bench, const std::string& source,
                              const std::string& path) {
  const ScratchDirectory directory;
  const Outcome outcome = run({program_path("thaw-bench"), bench, "--quick", source, path, "--json",
                               directory.path("json")});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  const Json json = Json::parse(as_text(read_file(directory.path("json"))), nullptr, false);
  if (json.is_discarded()) return {};
  EXPECT_EQ(json["bench"], bench);
  std::set<std::string> names;
  for (const Json& figure : json["results"]) {
    const std::string name = figure["name"];
    EXPECT_TRUE(names.insert(name).second) << name << " is there twice";
    // An idle handler may take no time at all, and a VM on an image raise no fault.
    // Of a soak it is good when nothing happened that must not.
    if (name != "fault.idle.cpu_percent" && name != "shared.second.faults" && bench != "soak") {
      EXPECT_GT(figure["value"], 0) << name;
    }
    EXPECT_GT(figure["floor"], 0) << name;
    EXPECT_GT(figure["n"], 0) << name;
  }
  return names;
}

TEST(BenchRun, FaultReportsEveryFigure) {
  const ScratchDirectory directory;
  write_file(directory.path("image"), make_image(1, 4096));

  const auto names = measure("fault", "--image", directory.path("image"));

  EXPECT_EQ(names, (std::set<std::string>{"fault.local.near.p50",
                                          "fault.local.spin.p50",
                                          "fault.local.sleep.p50",
                                          "fault.remote.near.p50",
                                          "fault.remote.near.p99",
                                          "fault.remote.spin.p50",
                                          "fault.remote.spin.p99",
                                          "fault.remote.sleep.p50",
                                          "fault.remote.sleep.p99",
                                          "fault.remote.tls.p50",
                                          "fault.remote.tls.p99",
                                          "fault.remote.default.p50",
                                          "fault.remote.default.p99",
                                          "fault.remote.faults_per_s",
                                          "fault.zero.p50",
                                          "fault.cpu_us_per_fault",
                                          "fault.around.hit_rate",
                                          "fault.around.sequential_speedup",
                                          "fault.sessions64.p99",
                                          "fault.idle.cpu_percent",
                                          "fault.hostile.flood.p99",
                                          "fault.hostile.shared_flood.p99",
                                          "fault.hostile.slow_mm.p99",
                                          "fault.hostile.shared_slow_mm.p99",
                                          "fault.hostile.shreds.p99"}));
}

TEST(BenchRun, SharedReportsEveryFigure) {
  const ScratchDirectory directory;
  write_file(directory.path("image"), make_image(1, 4096));

  const auto names = measure("shared", "--image", directory.path("image"));

  EXPECT_EQ(names, (std::set<std::string>{"shared.first.wall", "shared.second.wall",
                                          "shared.second.faults", "shared.second.ready",
                                          "shared.clones8.pss", "pool.restore.p50",
                                          "microvm.restore.first_output"}));
}

TEST(BenchRun, SoakReportsEveryFigure) {
  EXPECT_EQ(measure("soak", "--minutes", "1"),
            (std::set<std::string>{"soak.restored", "soak.handler_deaths", "soak.server_deaths",
                                   "soak.unserved_p99", "soak.wrong", "soak.lost", "soak.leaked",
                                   "soak.resident_growth"}));
}

TEST(BenchRun, StoreReportsEveryFigure) {
  const ScratchDirectory directory;
  for (const std::uint64_t seed : {1, 2}) {
    const std::string guest = directory.path(fmt::format("guest{}", seed));
    std::filesystem::create_directory(guest);
    write_file(guest + "/memory", make_image(seed, 4096));
  }

  const auto names = measure("store", "--guests", directory.path(""));

  EXPECT_EQ(names, (std::set<std::string>{
                       "ingest.rate", "ingest.vs_restic", "ingest.eight.rate", "ingest.dup.rate",
                       "pull.rate", "store.bytes", "store.bytes.restic", "store.bytes.borg",
                       "store.bytes.borg_zstd", "gc.rate", "gc.freed", "get.p50.1M",
                       "get.p50.1M.cold", "get.p50.10M", "get.p50.10M.cold", "rss.peak",
                       "rss.peak.push", "pageserver.hostile.ls", "pageserver.hostile.demand"}));
}

TEST(BenchRun, StoreWithoutGuestsIsAFailure) {
  const ScratchDirectory directory;
  EXPECT_EQ(run({program_path("thaw-bench"), "store", "--quick", "--guests", directory.path("")})
                .exit_code,
            1);
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
