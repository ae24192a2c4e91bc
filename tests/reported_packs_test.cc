// Packs that are reported as damaged to the real page server, by whoever.

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "format/page_client.h"
#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kPages = 40;

class ReportedPacksTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path(name); }
  PageClient client(const std::string& name_space) {
    return PageClient::connect(*resolve_tcp(server_.address()), name_space).value();
  }
  /// Pushes a snapshot and records all of its pages. Returns the first pack of its set.
  PackId make(const std::string& name, const std::string& name_space = "default") {
    std::mt19937_64 generator(std::hash<std::string>()(name));
    write_file(path(name), random_bytes(generator, kPages * kPageBytes));
    const Outcome pushed =
        server_.thaw({"--namespace", name_space, "push", name, "--memory", path(name)});
    EXPECT_EQ(pushed.exit_code, 0) << pushed.output;
    PageClient to = client(name_space);
    const Manifest manifest = to.show(name).value();
    Recording recording{
        .content_hash = manifest.content_hash, .created_unix_ms = 5, .regions = {}, .touches = {}};
    for (std::uint64_t page = 0; page < kPages; ++page) recording.touches.push_back({{page}, 0});
    EXPECT_TRUE(succeeded(to.put_recording(manifest.snapshot, recording)));
    return {manifest.snapshot, to.working_set(manifest.snapshot).value().generation, 0};
  }
  /// Damages every pack whose key has this in it.
  void damage_packs(const std::string& part) {
    ASSERT_EQ(server_.stop().value(), 0);
    {
      RawStore raw(path("store"));
      for (const std::string& key : raw.keys("pack")) {
        if (key.find(part) != std::string::npos) raw.damage("pack", key);
      }
    }
    server_.start();
  }
  bool is_served(const PackId& id, const std::string& name_space = "default") {
    PageConnection prefetch(server_.address(), message::Role::kPrefetch, name_space);
    prefetch.send(message::GetPack{id.snapshot, id.generation, id.number});
    return prefetch.receive_error() != ErrorCode::kNotFound;
  }
  void wait_until_put_aside(const PackId& id, const std::string& name_space = "default") {
    const Deadline deadline = Deadline::after(kPatience);
    while (is_served(id, name_space)) ASSERT_FALSE(deadline.passed());
  }
  Json scrub(int exit_code) {
    const Outcome outcome = server_.thaw({"scrub"});
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    return Json::parse(outcome.output)["counters"];
  }

  ScratchDirectory directory_;
  PageServer server_{path("store")};
};

TEST_F(ReportedPacksTest, DamagedOnesArePutAsideAndTheirSetIsMadeAgain) {
  const PackId whole = make("a");
  const PackId damaged = make("b");
  const WorkingSet before = client("default").working_set(damaged.snapshot).value();
  damage_packs(big_endian(damaged.snapshot.value));
  PageClient reporter = client("default");
  ASSERT_TRUE(succeeded(reporter.report_damage(
      {.chunks = {}, .snapshot = {}, .packs = {whole, damaged, {{77}, 1, 0}}})));
  wait_until_put_aside(damaged);
  EXPECT_TRUE(is_served(whole)) << "which was looked at before";
  EXPECT_EQ(reporter.working_set(damaged.snapshot).value(), before);
  EXPECT_TRUE(is_served(damaged));
  const Json counters = scrub(0);
  EXPECT_EQ(counters["damaged_sets"], 0);
  EXPECT_EQ(counters["packs"], 2 * before.packs.size());
}

/// The same numbers mean other packs there.
TEST_F(ReportedPacksTest, ReportsFromAnotherNamespaceChangeNothing) {
  const PackId owners = make("a");
  const PackId strangers = make("b", "stranger");
  ASSERT_EQ(owners, strangers);
  const PackId last = make("c", "stranger");
  damage_packs({});
  PageClient stranger = client("stranger");
  ASSERT_TRUE(succeeded(
      stranger.report_damage({.chunks = {}, .snapshot = {}, .packs = {strangers, last}})));
  wait_until_put_aside(last, "stranger");
  EXPECT_FALSE(is_served(strangers, "stranger"));
  EXPECT_TRUE(is_served(owners)) << "whose owner has reported nothing";
  EXPECT_EQ(scrub(1)["damaged_sets"], 1);
  EXPECT_FALSE(is_served(owners));
}

}  // namespace
}  // namespace thaw::test
