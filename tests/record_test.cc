// `thaw record` with a fault handler that is made up: what a run does with its command, and what
// it makes of the session's reports.

#include "cli/record.h"

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/event_fd.h"
#include "base/file.h"
#include "tests/support/programs.h"
#include "tests/support/scripted_handler.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class RecordTest : public testing::Test {
 protected:
  RecordTest()
      : handler_(path("control"),
                 [this](const ControlRequest& request) { return answer(request); }) {}

  std::string path(const std::string& name) const { return directory_.path(name); }
  bool exists(const std::string& name) const { return std::filesystem::exists(path(name)); }

  /// `script` runs in a shell with $OUT naming our directory, and is the VMM.
  Result<std::vector<RecordedRun>> record(const std::string& script, unsigned runs = 1) {
    ::setenv("OUT", path("").c_str(), 1);
    return record_command(
        {"sh", "-c", "echo $$ >$OUT/begun && mv $OUT/begun $OUT/pid$THAW_RUN; " + script}, runs);
  }
  Result<std::vector<RecordedRun>> record_command(const std::vector<std::string>& command,
                                                  unsigned runs = 1) {
    RecordOptions options{.control = path("control"),
                          .prepare = {},
                          .with_state = true,
                          .runs = runs,
                          .command = command};
    options.prepare.record = RecordMode::kAlways;
    return record_runs(options, stop_signals_, [this](const RecordedRun&) { ++reported_; });
  }

  /// Sessions are numbered from 1, as the runs are. Once a run's script has begun its session is as
  /// `session_` says, until it is stopped or its VMM has exited.
  ControlReply answer(const ControlRequest& request) {
    if (std::holds_alternative<control::Prepare>(request)) {
      control::Prepared prepared;
      prepared.session = ++prepared_;
      return prepared;
    }
    if (const auto* const stop = std::get_if<control::Stop>(&request)) {
      stopped_.insert(stop->session);
      return Stopped{};
    }
    std::vector<SessionReport> reports;
    for (std::uint64_t number = 1; number <= prepared_; ++number) {
      const bool begun = exists("pid" + std::to_string(number));
      SessionReport report = begun ? session_(number) : SessionReport();
      report.session = number;
      const bool waits = report.state == SessionState::kPrepared;
      if (stopped_.contains(number) || (!waits && vmm_has_exited(number))) {
        report.state = SessionState::kEnded;
      }
      reports.push_back(report);
    }
    return HandlerReport{.servers = {}, .sessions = std::move(reports)};
  }
  bool vmm_has_exited(std::uint64_t run) const {
    pid_t pid = 0;
    return std::ifstream(path("pid" + std::to_string(run))) >> pid && !is_running(pid);
  }
  std::size_t stops() { return handler_.requests<control::Stop>().size(); }

  const ScratchDirectory directory_;
  const UniqueFd stop_signals_ = create_event_fd().value();
  std::function<SessionReport(std::uint64_t number)> session_;
  std::atomic<std::uint64_t> prepared_ = 0;
  std::set<std::uint64_t> stopped_;  // of the handler's thread
  unsigned reported_ = 0;
  ScriptedHandler handler_;
};

/// What the session of a VM is like whose recording has come so far.
SessionReport serving(RecordingState recording, std::uint64_t pages = 0) {
  SessionReport report;
  report.state = SessionState::kServing;
  report.recording = recording;
  report.recorded_pages = pages;
  return report;
}

/// Of a session that serves nobody, and why.
SessionReport over(SessionState state, const std::string& outcome) {
  SessionReport report;
  report.state = state;
  report.outcome = outcome;
  return report;
}

TEST_F(RecordTest, EachRunHasItsOwnSessionAndCommandAndLeavesNothing) {
  session_ = [this](std::uint64_t number) {
    return exists("line" + std::to_string(number)) ? serving(RecordingState::kStored, 100 + number)
                                                   : serving(RecordingState::kRunning);
  };
  const auto runs = record(
      "stat -c %a $(dirname $THAW_SOCKET) >$OUT/mode;"
      "echo $THAW_SOCKET $THAW_STATE >$OUT/paths$THAW_RUN; mv $OUT/paths$THAW_RUN "
      "$OUT/line$THAW_RUN;"
      "sleep 1000 & wait",
      2);
  ASSERT_TRUE(succeeded(runs));
  ASSERT_EQ(runs->size(), 2u);
  EXPECT_EQ(reported_, 2u);
  const auto prepared = handler_.requests<control::Prepare>();
  ASSERT_EQ(prepared.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(runs->at(i).stored()) << runs->at(i).problem;
    EXPECT_EQ(runs->at(i).number, i + 1);
    EXPECT_EQ(runs->at(i).pages, 101 + i);
    EXPECT_EQ(prepared[i].record, RecordMode::kAlways);
    EXPECT_EQ(read_text_file(path("line" + std::to_string(i + 1)), 4096).value(),
              prepared[i].socket + " " + prepared[i].state_out + "\n");
    EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(prepared[i].socket).parent_path()));
  }
  EXPECT_NE(prepared[0].socket, prepared[1].socket);
  EXPECT_EQ(read_text_file(path("mode"), 100).value(), "700\n");
  EXPECT_TRUE(vmm_has_exited(1));
  EXPECT_TRUE(vmm_has_exited(2));
  EXPECT_EQ(stops(), 0u) << "they have ended with their VMM";
}

TEST_F(RecordTest, RunWhoseCommandFailsSaysSoAndTheOthersGoOn) {
  session_ = [](std::uint64_t number) {
    return number == 1 ? SessionReport{} : serving(RecordingState::kStored, 7);
  };
  const auto runs = record("test $THAW_RUN = 2 && sleep 1000; exit 3", 2);
  ASSERT_TRUE(succeeded(runs));
  EXPECT_NE(runs->at(0).problem.find("exited with code 3"), std::string::npos)
      << runs->at(0).problem;
  EXPECT_TRUE(runs->at(1).stored());
  EXPECT_EQ(stops(), 1u) << "of the session that still waits for its VMM";
}

TEST_F(RecordTest, WhatTheSessionSaysIsTheProblem) {
  const SessionReport refused = over(SessionState::kRefused, "wrong regions");
  const SessionReport ended = over(SessionState::kEnded, "the VMM exited");
  const SessionReport failed = serving(RecordingState::kFailed);
  session_ = [&](std::uint64_t number) { return std::vector{refused, ended, failed}[number - 1]; };
  const auto runs = record("sleep 1000", 3);
  ASSERT_TRUE(succeeded(runs));
  EXPECT_EQ(runs->at(0).problem, "wrong regions");
  EXPECT_EQ(runs->at(1).problem, "the VMM exited");
  EXPECT_EQ(runs->at(2).problem, "the recording failed");
}

TEST_F(RecordTest, RecordingThatIsUploadedAfterTheVmmExitedCounts) {
  std::atomic<int> looks = 0;
  session_ = [&](std::uint64_t) {
    SessionReport report = over(SessionState::kEnded, "the VMM exited");
    report.recording = ++looks < 30 ? RecordingState::kUploading : RecordingState::kStored;
    return report;
  };
  const auto runs = record("exit 0");
  ASSERT_TRUE(succeeded(runs));
  EXPECT_TRUE(runs->at(0).stored()) << runs->at(0).problem;
}

TEST_F(RecordTest, SignalEndsCommandAndSession) {
  session_ = [this](std::uint64_t) {
    if (exists("ready")) signal_event_fd(stop_signals_);
    return serving(RecordingState::kRunning);
  };
  const auto runs = record(
      "trap 'echo ended >$OUT/ended; exit' TERM; echo >$OUT/ready;"
      "while :; do sleep 0.01; done",
      5);
  EXPECT_EQ(code_of(runs), ErrorCode::kStopped);
  EXPECT_TRUE(exists("ended")) << "it was asked to first";
  EXPECT_EQ(prepared_, 1u);
  EXPECT_TRUE(vmm_has_exited(1));
}

TEST_F(RecordTest, VmThatLeftTheCommandsGroupIsKilledByTheHandler) {
  session_ = [](std::uint64_t) { return serving(RecordingState::kStored); };
  const auto runs = record("echo 1 >$OUT/pid1");  // which never exits
  ASSERT_TRUE(succeeded(runs));
  EXPECT_TRUE(runs->at(0).stored());
  ASSERT_EQ(stops(), 1u);
  EXPECT_EQ(handler_.requests<control::Stop>()[0].mode, control::StopMode::kKill);
}

TEST_F(RecordTest, CommandThatIsNotThereEndsAllRuns) {
  session_ = [](std::uint64_t) { return SessionReport{}; };
  EXPECT_EQ(code_of(record_command({"thaw-no-such-program"}, 3)), ErrorCode::kNotFound);
  EXPECT_EQ(prepared_, 1u);
  EXPECT_EQ(stops(), 1u);
}

TEST_F(RecordTest, HandlerThatForgetsTheSessionEndsAllRuns) {
  session_ = [this](std::uint64_t) {
    prepared_ = 0;
    return SessionReport{};
  };
  EXPECT_EQ(code_of(record("sleep 1000", 3)), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace thaw::test
