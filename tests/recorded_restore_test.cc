// `thaw record` and `thaw ws` with the real programs: page server, fault handler, and a VMM process
// of our own.

#include <csignal>
#include <filesystem>
#include <memory>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kPages = 1024;
// Longer than a guest pauses while it touches its half.
const char* const kIdleMs = kSanitized ? "1000" : "500";

class RecordedRestoreTest : public testing::Test {
 protected:
  RecordedRestoreTest() : server_(path("store")) {
    write_file(path("image"), make_image(1, kPages));
    write_file(path("state"), as_bytes("the state of a VMM"));
    EXPECT_EQ(push("snapshot", {"--state", path("state")}).exit_code, 0);
    handler_ = std::make_unique<Program>(
        std::vector<std::string>{program_path("thaw-faulthandler"), "--control", path("control"),
                                 "--insecure", "--server", server_.address()});
    EXPECT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
  }

  std::string path(const std::string& name) const { return directory_.path(name); }
  std::vector<std::string> command(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {program_path("thaw"), "--json", "--insecure", "--server",
                                         server_.address(), "--control", path("control")});
    return arguments;
  }
  Outcome thaw(std::vector<std::string> arguments) { return run(command(std::move(arguments))); }
  Outcome push(const std::string& name, std::vector<std::string> more) {
    more.insert(more.begin(), {"push", name, "--memory", path("image")});
    return thaw(more);
  }
  /// The output of a command that succeeds.
  Json json(std::vector<std::string> arguments) {
    const Outcome outcome = thaw(std::move(arguments));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return Json::parse(outcome.output, nullptr, false);
  }
  std::string error(std::vector<std::string> arguments) {
    const Outcome outcome = thaw(std::move(arguments));
    EXPECT_NE(outcome.exit_code, 0);
    return Json::parse(outcome.output)["error"]["code"];
  }
  /// A shell command that touches half of the pages and stays.
  std::string half_a_guest() const {
    return "sleep 1000 | " + program_path("vmm") + " $THAW_SOCKET " + path("image") + " halves";
  }
  std::vector<std::string> record(const std::string& script, std::vector<std::string> more,
                                  const std::string& idle_ms = kIdleMs) {
    more.insert(more.begin(), {"record", "snapshot"});
    more.insert(more.end(), {"--record-idle-ms", idle_ms, "--", "sh", "-c", script});
    return more;
  }
  /// The report of the newest session once `done(report)` holds.
  template <typename Done>
  Json wait_for_session(Done done) {
    const Deadline deadline = Deadline::after(kPatience);
    while (!deadline.passed()) {
      const Json sessions = json({"ps"})["sessions"];
      if (!sessions.empty() && done(sessions.back())) return sessions.back();
    }
    ADD_FAILURE() << json({"ps"}).dump(2);
    return {};
  }

  const ScratchDirectory directory_;
  PageServer server_;
  std::unique_ptr<Program> handler_;
};

TEST_F(RecordedRestoreTest, RunsMakeAWorkingSetThatMovesAsAFile) {
  const std::string script = "cmp $THAW_STATE " + path("state") + " && " + half_a_guest();
  const Json recorded = json(record(script, {"--runs", "2", "--out", path("kept")}));
  ASSERT_EQ(recorded["runs"].size(), 2u) << recorded.dump(2);
  for (const Json& run : recorded["runs"]) {
    EXPECT_TRUE(run["stored"]) << run.dump();
    EXPECT_EQ(run["pages"], kPages / 2);
  }
  const Json set = json({"ws", "show", "snapshot"});
  EXPECT_EQ(set, recorded["working_set"]);
  EXPECT_EQ(set["pages"], kPages / 2);
  EXPECT_GT(set["zero_pages"], 0);
  EXPECT_LT(set["pack_bytes"], set["plain_bytes"]);
  EXPECT_EQ(set["recordings"][0]["set_pages"], 0);
  EXPECT_EQ(set["recordings"][1]["set_hits"], kPages / 2) << "both touched the same";

  json({"ws", "export", "snapshot", path("exported")});
  EXPECT_EQ(read_file(path("exported")), read_file(path("kept")));
  json({"ws", "drop", "snapshot"});
  EXPECT_EQ(error({"ws", "show", "snapshot"}), "not_found");
  EXPECT_EQ(error({"ws", "export", "snapshot", path("none")}), "not_found");
  EXPECT_FALSE(std::filesystem::exists(path("none")));
  EXPECT_EQ(json({"ws", "import", "snapshot", path("exported")})["recordings"], 2);
  EXPECT_EQ(json({"ws", "show", "snapshot"})["pages"], kPages / 2);
  json({"ws", "plot", "snapshot", "--out", path("picture.svg")});
  EXPECT_NE(as_text(read_file(path("picture.svg"))).find("asked for it: 512 pages"),
            std::string::npos);
}

TEST_F(RecordedRestoreTest, RecordingsOfOtherContentAreRefused) {
  json(record(half_a_guest(), {"--runs", "1", "--out", path("kept")}));
  write_file(path("image"), make_image(2, kPages));
  ASSERT_EQ(push("other", {}).exit_code, 0);
  EXPECT_EQ(error({"ws", "import", "other", path("kept")}), "invalid_argument");
  EXPECT_EQ(error({"ws", "show", "other"}), "not_found");
}

TEST_F(RecordedRestoreTest, RecordedSetIsPrefetchedAndTraced) {
  json(record(half_a_guest(), {"--runs", "1"}));
  json({"prepare", "snapshot", "--socket", path("vm"), "--trace", path("trace"), "--record-idle-ms",
        "200"});
  wait_for_session([](const Json& report) { return report["prefetch"]["state"] == "streaming"; });
  Program vmm({program_path("vmm"), path("vm"), path("image"), "halves"});
  ASSERT_TRUE(succeeded(vmm.wait_for_line("half")));
  const Json report =
      wait_for_session([](const Json& session) { return session["prefetch"]["state"] == "done"; });
  EXPECT_EQ(report["recording"], "none");
  EXPECT_GT(report["prefetch"]["prefetched_pages"], 0);
  const Deadline deadline = Deadline::after(kPatience);
  while (!std::filesystem::exists(path("trace")) && !deadline.passed()) std::this_thread::yield();
  json({"ws", "plot", "--trace", path("trace"), "--out", path("trace.svg")});
  EXPECT_NE(as_text(read_file(path("trace.svg"))).find("brought before it asked"),
            std::string::npos);
  Json totals;
  do {
    totals = json({"ws", "show", "snapshot"})["totals"];
  } while (totals["sessions"] == 0 && !deadline.passed());
  EXPECT_EQ(totals["sessions"], 1);
  EXPECT_EQ(totals["set_pages"], kPages / 2);
  EXPECT_GT(json({"stats"})["packs_served"], 0);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_F(RecordedRestoreTest, OneRestoreInEightRecordsWhileTheSetIsYoung) {
  json(record(half_a_guest(), {"--runs", "1"}));
  for (int restore = 1; restore <= 8; ++restore) {
    json({"prepare", "snapshot", "--socket", path("vm" + std::to_string(restore))});
    const Json session = json({"ps"})["sessions"].back();
    EXPECT_EQ(session["prefetch"]["state"] == "none", restore == 8) << session.dump(2);
  }
}

TEST_F(RecordedRestoreTest, ChildHasTheWorkingSetOfItsParent) {
  json(record(half_a_guest(), {"--runs", "1"}));
  ASSERT_EQ(push("child", {"--parent", "snapshot"}).exit_code, 0);
  EXPECT_EQ(json({"show", "child"})["parent"], json({"show", "snapshot"})["snapshot"]);
  const Json set = json({"ws", "show", "child"});
  EXPECT_EQ(set["generation"], 0);
  EXPECT_EQ(set["pages"], kPages / 2);
  EXPECT_TRUE(set["recordings"].empty());
  EXPECT_EQ(push("orphan", {"--parent", "nobody"}).exit_code, 3);
}

TEST_F(RecordedRestoreTest, RunsThatWereNotRecordedMakeTheExitCode) {
  const Outcome outcome =
      thaw(record("test $THAW_RUN = 2 || exit 9; " + half_a_guest(), {"--runs", "2"}));
  EXPECT_EQ(outcome.exit_code, 1);
  const Json recorded = Json::parse(outcome.output);
  EXPECT_FALSE(recorded["runs"][0]["stored"]);
  EXPECT_TRUE(recorded["runs"][1]["stored"]);
  EXPECT_EQ(recorded["working_set"]["recordings"].size(), 1u);
  const Outcome nothing = thaw(record("exit 9", {"--runs", "1"}));
  EXPECT_EQ(nothing.exit_code, 1);
  EXPECT_TRUE(Json::parse(nothing.output)["working_set"].is_null());
}

TEST_F(RecordedRestoreTest, WhatTheCommandSaysIsNoneOfOurOutput) {
  const Outcome outcome = thaw(record("echo noise; " + half_a_guest(), {"--runs", "1"}));
  EXPECT_TRUE(Json::parse(outcome.output, nullptr, false).is_object()) << outcome.output;
}

TEST_F(RecordedRestoreTest, InterruptLeavesNeitherCommandNorVm) {
  // Nothing is idle for so long: it would go on for a minute.
  Program thaw(command(record(half_a_guest(), {"--record-most-ms", "60000"}, "60000")));
  const Json report =
      wait_for_session([](const Json& session) { return session["recording"] == "running"; });
  thaw.signal(SIGINT);
  EXPECT_EQ(thaw.wait().value(), 1);
  EXPECT_FALSE(is_running(report["vmm_pid"].get<pid_t>()));
  EXPECT_EQ(json({"ps"})["sessions"].back()["state"], "ended");
  const auto socket = std::filesystem::path(report["socket"].get<std::string>());
  EXPECT_FALSE(std::filesystem::exists(socket.parent_path()));
}

}  // namespace
}  // namespace thaw::test
