// The `thaw` command line: what it refuses, and what it makes of its arguments. What it does with a
// page server stands in the tests of the programs.

#include <atomic>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/recordings.h"
#include "tests/support/programs.h"
#include "tests/support/scripted_handler.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

TEST(Arguments, SizesHaveBinaryUnits) {
  EXPECT_EQ(parse_size("4096").value(), 4096u);
  EXPECT_EQ(parse_size("3G").value(), 3u << 30);
  for (const char* const text : {"", "M", "1X", "1MB", "-1", "99999999T", "1 M"}) {
    EXPECT_EQ(code_of(parse_size(text)), ErrorCode::kInvalidArgument) << text;
  }
}

TEST(Arguments, OwnersAreTwoIds) {
  EXPECT_EQ(parse_owner("0:4294967295")->gid, 4294967295u);
  for (const char* const text : {"", "1", ":", "1:", ":1", "1:1K", "4294967296:1", "root:root"}) {
    EXPECT_EQ(code_of(parse_owner(text)), ErrorCode::kInvalidArgument) << text;
  }
}

class RecordingFileTest : public testing::Test {
 protected:
  static Recording recording(std::uint64_t created) {
    return {.content_hash = {},
            .created_unix_ms = created,
            .regions = {{{8 * kPageBytes}, {0}, {kPageBytes}}},
            .touches = {{{3}, 10}, {{1}, 20}}};
  }
  std::string file(const std::vector<Recording>& recordings) {
    Bytes content;
    for (const Recording& next : recordings) append(content, encode_recording(next));
    write_file(path_, content);
    return path_;
  }
  static void append(Bytes& to, const Bytes& more) {
    to.insert(to.end(), more.begin(), more.end());
  }

  ScratchDirectory directory_;
  std::string path_ = directory_.path("recordings");
};

TEST_F(RecordingFileTest, RoundTrips) {
  const std::vector<Recording> recordings{recording(1), recording(2), recording(3)};
  EXPECT_EQ(read_recordings(file(recordings)).value(), recordings);
  EXPECT_EQ(memory_of(recordings[0]).value(), PageCount{8});
}

TEST_F(RecordingFileTest, RefusalsByName) {
  EXPECT_EQ(code_of(read_recordings(directory_.path("nothing"))), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(read_recordings(file({}))), ErrorCode::kMalformed);
  EXPECT_EQ(code_of(read_recordings(file(std::vector(limits::kMaxRecordings + 1, recording(1))))),
            ErrorCode::kTooLarge);
  Bytes content = encode_recording(recording(1));
  append(content, encode_recording(recording(2)));
  content.pop_back();
  write_file(path_, content);
  EXPECT_EQ(code_of(read_recordings(path_)), ErrorCode::kTruncated);
  content.resize(encode_recording(recording(1)).size() + 3);
  write_file(path_, content);
  EXPECT_EQ(code_of(read_recordings(path_)), ErrorCode::kTruncated);
  write_file(path_, Bytes(100));
  EXPECT_EQ(code_of(read_recordings(path_)), ErrorCode::kBadMagic);
}

TEST_F(RecordingFileTest, RegionsThatDoNotTileTheMemoryAreRefused) {
  Recording wrong = recording(1);
  wrong.regions[0].offset = {~std::uint64_t{0} - 4095};
  EXPECT_TRUE(code_of(memory_of(wrong)).has_value());
  wrong.regions.clear();
  EXPECT_EQ(memory_of(wrong).value(), PageCount{0});
}

class CommandLineTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path(name); }
  Outcome thaw(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {program_path("thaw"), "--json", "--insecure", "--server",
                                         "127.0.0.1:1", "--control", path("control")});
    return run(arguments);
  }
  int exit_code(const std::vector<std::string>& arguments) { return thaw(arguments).exit_code; }
  /// What the fault handler is asked for.
  std::optional<control::Prepare> prepared(std::vector<std::string> more) {
    more.insert(more.begin(), {"prepare", "snapshot", "--socket", path("vm")});
    ScriptedHandler handler(path("control"),
                            [](const ControlRequest&) { return control::Prepared{}; });
    EXPECT_EQ(exit_code(more), 0);
    const auto requests = handler.requests<control::Prepare>();
    return requests.size() == 1 ? std::optional(requests[0]) : std::nullopt;
  }

  ScratchDirectory directory_;
};

TEST_F(CommandLineTest, WithoutFlagsThereAreTheHandlersDefaults) {
  control::Prepare expected;
  expected.snapshot = "snapshot";
  expected.socket = path("vm");
  expected.name_space = "default";
  EXPECT_EQ(prepared({}), expected);
  EXPECT_TRUE(prepared({"--shared", "--allow-root-vmm"})->allow_root_vmm);
  EXPECT_TRUE(prepared({"--verify"})->verify);
}

TEST_F(CommandLineTest, FlagsOfPrepareReachTheHandler) {
  const auto recording = prepared({"--record", "--record-idle-ms", "5", "--record-most-ms", "70"});
  EXPECT_EQ(recording->record, RecordMode::kAlways);
  EXPECT_EQ(recording->record_idle_ms, 5u);
  EXPECT_EQ(recording->record_most_ms, 70u);
  const auto traced = prepared({"--no-record", "--no-prefetch", "--hydrate-mib-s", "3", "--trace",
                                "trace", "--record-most-ms", "9", "--owner", "7:8"});
  EXPECT_EQ(traced->record, RecordMode::kNever);
  EXPECT_FALSE(traced->prefetch);
  EXPECT_EQ(traced->hydrate_bytes_per_s, 3u << 20);
  EXPECT_EQ(traced->trace_out, std::filesystem::absolute("trace").string());
  EXPECT_EQ(traced->record_most_ms, 9u);
  EXPECT_EQ(traced->owner_gid, 8u);
}

TEST_F(CommandLineTest, FlagsThatContradictOneAnotherAreRefused) {
  const auto prepare = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"prepare", "snapshot", "--socket", path("vm")});
    return exit_code(more);
  };
  EXPECT_EQ(prepare({"--record", "--no-record"}), 2);
  EXPECT_EQ(prepare({"--record", "--no-prefetch"}), 2);
  EXPECT_EQ(prepare({"--no-record", "--record-idle-ms", "5"}), 2);
  EXPECT_EQ(prepare({"--record-most-ms", "0"}), 2);
  EXPECT_EQ(prepare({"--record-most-ms", "-1"}), 2);
  EXPECT_EQ(prepare({"--hydrate-mib-s", "fast"}), 2);
  EXPECT_EQ(prepare({"--hydrate-mib-s", "99999999999999"}), 2);
  EXPECT_EQ(prepare({}), 4) << "these are right, but nobody listens";
}

TEST_F(CommandLineTest, WhatWsAndRecordNeedIsAskedFor) {
  EXPECT_EQ(exit_code({"ws"}), 2);
  EXPECT_EQ(exit_code({"ws", "frobnicate"}), 2);
  EXPECT_EQ(exit_code({"ws", "show"}), 2);
  EXPECT_EQ(exit_code({"ws", "export", "snapshot"}), 2);
  EXPECT_EQ(exit_code({"ws", "plot", "--out", path("p")}), 2);
  EXPECT_EQ(exit_code({"ws", "plot", "snapshot"}), 2);
  EXPECT_EQ(exit_code({"ws", "plot", "snapshot", "--trace", "t", "--out", path("p")}), 2);
  EXPECT_EQ(exit_code({"record", "snapshot"}), 2);
  EXPECT_EQ(exit_code({"record", "snapshot", "--"}), 2);
  EXPECT_EQ(exit_code({"record", "--runs", "0", "snapshot", "--", "true"}), 2);
  EXPECT_EQ(exit_code({"record", "--runs", "65", "snapshot", "--", "true"}), 2);
  EXPECT_EQ(exit_code({"record", "snapshot", "true", "--frobnicate"}), 2);
  EXPECT_EQ(exit_code({"ws", "show", "snapshot"}), 4) << "right, but nobody answers";
  EXPECT_EQ(exit_code({"record", "snapshot", "--json", "--", "ls", "--frobnicate", "ws"}), 4);
}

TEST_F(CommandLineTest, SessionsShowWhatRecordingAndPrefetchDo) {
  const ScriptedHandler handler(path("control"), [](const ControlRequest&) {
    HandlerReport report;
    report.servers = {
        {.address = "192.0.2.1:7433", .state = ServerState::kUp},
        {.address = "192.0.2.2:7433", .state = ServerState::kAway, .away_ms = 12'300}};
    std::vector<SessionReport>& sessions = report.sessions;
    sessions.resize(3);
    sessions[1].waiting_pages = 7;
    sessions[0].state = SessionState::kServing;
    sessions[0].recording = RecordingState::kRunning;
    sessions[1].state = SessionState::kServing;
    sessions[1].prefetch.state = PrefetchState::kStreaming;
    sessions[1].prefetch.set_pages = 5000;
    sessions[1].prefetch.prefetched_pages = 4812;
    sessions[1].prefetch.late_pages = 17;
    sessions[2].state = SessionState::kEnded;
    sessions[2].recording = RecordingState::kFailed;
    return report;
  });
  const Outcome table = run({program_path("thaw"), "--control", path("control"), "ps"});
  EXPECT_EQ(table.exit_code, 0);
  for (const char* const text :
       {"serving, recording", "serving, prefetching", "4812/5000   17 ", "ended, not recorded",
        "PREFETCHED", "LATE", "page server 192.0.2.2:7433 is away for 12.3 s", "7 pages wait"}) {
    EXPECT_NE(table.output.find(text), std::string::npos) << text << " in\n" << table.output;
  }
  EXPECT_EQ(table.output.find("192.0.2.1"), std::string::npos) << "nothing is wrong with that one";
  const Json json = Json::parse(thaw({"ps"}).output);
  EXPECT_EQ(json["sessions"][1]["prefetch"]["late_pages"], 17);
}

TEST_F(CommandLineTest, UpgradesAreShown) {
  std::atomic<bool> failed = false;
  const ScriptedHandler handler(path("control"), [&](const ControlRequest&) {
    HandlerReport report;
    report.upgrades = 2;
    if (failed) report.upgrade_failure = "it exited\x1b[2J with code 2";
    return report;
  });
  const auto ps = [&] {
    return run({program_path("thaw"), "--control", path("control"), "ps"}).output;
  };
  EXPECT_TRUE(ps().starts_with("upgrades tried: 2\n"));
  failed = true;
  EXPECT_TRUE(
      ps().starts_with("upgrades tried: 2, the last was not done, and the program before goes "
                       "on: it exited\\x1b[2J with code 2\n"));
}

TEST_F(CommandLineTest, TraceIsDrawnWithoutAServer) {
  const Recording trace{.content_hash = {},
                        .regions = {{{8 * kPageBytes}, {0}, {kPageBytes}}},
                        .touches = {{{3}, 10}, {{1}, 20, TouchKind::kPrefetch}}};
  write_file(path("vm.trace"), encode_recording(trace));
  const Outcome drawn = thaw({"ws", "plot", "--trace", path("vm.trace"), "--out", path("vm.svg")});
  EXPECT_EQ(drawn.exit_code, 0) << drawn.output;
  const Bytes picture = read_file(path("vm.svg"));
  EXPECT_NE(as_text(picture).find("trace vm.trace"), std::string::npos);
  const Outcome missing = thaw({"ws", "plot", "--trace", path("no"), "--out", path("no.svg")});
  EXPECT_EQ(missing.exit_code, 3);
  EXPECT_FALSE(std::filesystem::exists(path("no.svg")));
}

}  // namespace
}  // namespace thaw::test
