// Restores from two page servers that keep the same store, through the real programs.

#include <csignal>
#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/userfaultfd.h"
#include "tests/support/http_client.h"
#include "tests/support/page_connection.h"
#include "tests/support/raw_store.h"
#include "tests/support/restore_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class FailoverRestoreTest : public RestoreTest {
 protected:
  FailoverRestoreTest() {
    EXPECT_EQ(server_.stop().value(), 0);
    std::filesystem::copy(path("store"), path("copy"), std::filesystem::copy_options::recursive);
    server_.start();
    start_copy();
    start_handler(server_.address(), {"--server", copy_->address()});
  }
  void start_copy() {
    if (copy_ == nullptr) {
      copy_ = std::make_unique<PageServer>(path("copy"));
    } else {
      copy_->start();
    }
  }
  Json servers() { return Json::parse(control({"ps"}).output)["servers"]; }
  void wait_for_server(std::size_t number, const std::string& state) {
    const Deadline deadline = Deadline::after(kPatience);
    while (servers()[number]["state"] != state) ASSERT_FALSE(deadline.passed()) << servers();
  }
  /// Damages each pack in the first server's store; returns what the first was like.
  std::string damage_packs() {
    RawStore raw(path("store"));
    const std::vector<std::string> keys = raw.keys("pack");
    const std::string first = raw.get("pack", keys.at(0));
    for (const std::string& key : keys) raw.damage("pack", key);
    return first;
  }
  /// What the first server has as the first pack of the snapshot's set.
  std::string first_pack() {
    const Outcome shown = server_.thaw({"show", "snapshot"});
    PageConnection prefetch(server_.address(), message::Role::kPrefetch);
    const SnapshotId snapshot{Json::parse(shown.output)["snapshot"].get<std::uint64_t>()};
    return std::string(as_text(prefetch.ask(message::GetPack{snapshot, 1, 0}).body));
  }

  std::unique_ptr<PageServer> copy_;
};

INSTANTIATE_TEST_SUITE_P(Loops, FailoverRestoreTest, both_loops(), loop_name);

TEST_P(FailoverRestoreTest, RestoreGoesOnWhenOneServerIsKilled) {
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  server_.kill();
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  wait_for_state(number, "ended");
}

TEST_P(FailoverRestoreTest, PrefetchAndPreparationGoToTheServerThatIsThere) {
  prepare();  // records
  ASSERT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for(1, [](const Json& report) { return report["recording"] == "stored"; });
  server_.kill();
  const std::uint64_t number = prepare({"--hydrate-mib-s", "100000"});
  Program vmm = start_half();
  wait_for_state(number, "detached");
  copy_->kill();
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(FailoverRestoreTest, RestoresRunOnThroughRestartsOfAllServersInTurn) {
  prepare();
  Program vmm = start_half();
  for (int i = 0; i < 4; ++i) {
    const std::size_t restarted = i % 2;
    PageServer& server = restarted == 0 ? server_ : *copy_;
    const std::string socket = "vm" + std::to_string(i);
    prepare({}, socket);
    Program other = start_vmm("verify", "image", socket);
    server.kill();
    EXPECT_EQ(other.wait().value(), 0);
    wait_for_server(restarted, "away");
    server.start();
    wait_for_server(restarted, "up");
  }
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(FailoverRestoreTest, OperatorSeesWhoIsAwayAndWhoWaits) {
  const std::string http = free_address();
  start_handler(server_.address(), {"--server", copy_->address(), "--http", http});
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  server_.kill();
  copy_->kill();
  vmm.tell("go on");
  wait_for(number, [](const Json& report) { return report["waiting_pages"] > 0; });
  wait_for_server(0, "away");
  wait_for_server(1, "away");
  const Outcome table = run({program_path("thaw"), "--control", path("control"), "ps"});
  EXPECT_NE(table.output.find("page server " + server_.address() + " is away for"),
            std::string::npos)
      << table.output;
  const std::string metrics = http_get(http, "/metrics");
  EXPECT_NE(metrics.find("page_server_up{server=\"" + server_.address() + "\"} 0\n"),
            std::string::npos)
      << metrics;
  EXPECT_NE(metrics.find("\nthaw_handler_waiting_pages "), std::string::npos) << metrics;
  EXPECT_EQ(metrics.find("waiting_pages 0\n"), std::string::npos) << metrics;
  copy_->start();
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(FailoverRestoreTest, VmIsKilledWhenNoServerBroughtItsPageInTime) {
  const std::uint64_t number = prepare({"--unservable-after", "1"});
  Program vmm = start_half();
  server_.kill();
  copy_->kill();
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  const std::string outcome = wait_for_state(number, "ended")["outcome"];
  EXPECT_NE(outcome.find("no page server has brought it within 1000 ms"), std::string::npos)
      << outcome;
}

TEST_P(FailoverRestoreTest, GuestThatMayWaitOutlivesTheDeadline) {
  const std::uint64_t number = prepare({"--unservable-after", "1", "--on-unservable", "wait"});
  Program vmm = start_half();
  server_.kill();
  copy_->kill();
  vmm.tell("go on");
  wait_for(number, [](const Json& report) { return report["waiting_pages"] > 0; });
  const Deadline later = Deadline::after(std::chrono::milliseconds(1500));
  while (!later.passed()) EXPECT_EQ(session(number)["state"], "serving");
  server_.start();
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(FailoverRestoreTest, PoisonedPageIsAnErrorForWhoeverTouchesIt) {
  if (!can_poison()) {
    const Outcome refused =
        control({"prepare", "snapshot", "--socket", path("vm"), "--on-unservable", "poison"});
    EXPECT_EQ(Json::parse(refused.output)["error"]["code"], "unsupported");
    GTEST_SKIP() << "this kernel poisons no pages";
  }
  for (const bool shared : {false, true}) {
    std::vector<std::string> options{"--unservable-after", "1", "--on-unservable", "poison"};
    if (shared) options.push_back("--shared");
    const std::uint64_t number = prepare(options);
    Program vmm = start_vmm(shared ? "shared-halves" : "halves");
    ASSERT_TRUE(succeeded(vmm.wait_for_line("half")));
    server_.kill();
    copy_->kill();
    vmm.tell("go on");
    EXPECT_EQ(vmm.wait().value(), 128 + SIGBUS) << vmm.rest_of_output();
    EXPECT_GT(wait_for_state(number, "ended")["poisoned_pages"], 0);
    server_.start();
    copy_->start();
  }
}

TEST_P(FailoverRestoreTest, DamagedChunksComeFromTheOtherServer) {
  ASSERT_EQ(server_.stop().value(), 0);
  RawStore(path("store")).mix_up_chunks();
  server_.start();
  const std::uint64_t number = prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  EXPECT_GT(wait_for_state(number, "ended")["damaged_chunks"], 0);
  // The first server was told, has looked, and has them in quarantine: a push brings them again.
  const Deadline deadline = Deadline::after(kPatience);
  const auto new_pages = [&](const std::string& name) {
    const Outcome pushed = push(name);
    EXPECT_EQ(pushed.exit_code, 0) << pushed.output;
    return Json::parse(pushed.output)["new_pages"].get<int>();
  };
  for (int i = 0; new_pages("again" + std::to_string(i)) == 0; ++i) ASSERT_FALSE(deadline.passed());
}

TEST_P(FailoverRestoreTest, DamagedPageMapComesFromTheOtherServer) {
  ASSERT_EQ(server_.stop().value(), 0);
  {
    RawStore raw(path("store"));
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'p') raw.put("snapshot", key, "nonsense");
    }
  }
  server_.start();
  prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
}

TEST_P(FailoverRestoreTest, DamagedPacksComeFromTheOtherServerAndAreMadeAgain) {
  prepare();  // records
  ASSERT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for(1, [](const Json& report) { return report["recording"] == "stored"; });
  ASSERT_EQ(server_.stop().value(), 0);
  ASSERT_EQ(copy_->stop().value(), 0);
  std::filesystem::remove_all(path("copy"));
  std::filesystem::copy(path("store"), path("copy"), std::filesystem::copy_options::recursive);
  const std::string whole = damage_packs();
  server_.start();
  copy_->start();

  const std::uint64_t number = prepare();
  wait_for(number, [](const Json& report) { return report["damaged_chunks"] > 0; });
  Program vmm = start_half();
  wait_for(number, [](const Json& report) { return report["prefetch"]["state"] == "done"; });
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);

  // The first server was told, has looked, and makes the set again for whoever asks for it.
  const Deadline deadline = Deadline::after(kPatience);
  do {
    ASSERT_FALSE(deadline.passed());
    ASSERT_EQ(server_.thaw({"ws", "show", "snapshot"}).exit_code, 0);
  } while (first_pack() != whole);
  copy_->kill();
  const std::uint64_t next = prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  const Json report = wait_for_state(next, "ended");
  EXPECT_EQ(report["damaged_chunks"], 0);
  EXPECT_GT(report["prefetch"]["packs"], 0);
}

TEST_P(FailoverRestoreTest, PageThatOneServerLacksComesFromTheOther) {
  write_file(path("other"), make_image(3, kPages));
  ASSERT_EQ(push("newer", "other").exit_code, 0);  // to the first alone
  prepare({}, "vm", "newer");
  EXPECT_EQ(start_vmm("verify", "other").wait().value(), 0);
}

TEST_P(FailoverRestoreTest, NothingIsFoundOnlyWhereAllWereAsked) {
  const auto code = [&] {
    const Outcome outcome = control({"prepare", "nothing", "--socket", path("vm")});
    return Json::parse(outcome.output)["error"]["code"].get<std::string>();
  };
  EXPECT_EQ(code(), "not_found");
  copy_->kill();
  EXPECT_EQ(code(), "unavailable");
}

}  // namespace
}  // namespace thaw::test
