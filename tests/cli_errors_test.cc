// How the commands of `thaw` fail: one JSON document on stdout, and the documented exit code.

#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/scripted_handler.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

class CliErrorsTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path(name); }
  static Outcome thaw(Words words) {
    words.insert(words.begin(), program_path("thaw"));
    return run(words);
  }
  Outcome json(Words words) const {
    const Words first{"--json",      "--insecure", "--server",
                      "127.0.0.1:1", "--control",  path("no.sock")};
    words.insert(words.begin(), first.begin(), first.end());
    return thaw(std::move(words));
  }
  /// The code of the one error that was printed.
  static std::string code(const Outcome& outcome) {
    const Json document = Json::parse(outcome.output, nullptr, false);
    if (!document.is_object() || !document.contains("error")) return "no error: " + outcome.output;
    EXPECT_FALSE(document["error"]["text"].get<std::string>().empty());
    return document["error"]["code"];
  }
  static void expect(const Outcome& outcome, int exit_code, const std::string& wanted,
                     const std::string& what) {
    EXPECT_EQ(outcome.exit_code, exit_code) << what;
    EXPECT_EQ(code(outcome), wanted) << what;
  }

  /// Every command that asks a page server, with right words.
  std::vector<Words> of_server() const {
    return {{"push", "n", "--memory", path("image")},
            {"pull", "n", "--memory", path("out")},
            {"ls"},
            {"show", "n"},
            {"rm", "n"},
            {"stats"},
            {"tag", "n", "n:t"},
            {"untag", "n:t"},
            {"label", "n", "k=v"},
            {"usage", "n"},
            {"namespace"},
            {"gc"},
            {"retain"},
            {"scrub"},
            {"compact"},
            {"backup", "n"},
            {"ws", "show", "n"},
            {"ws", "export", "n", path("out")},
            {"ws", "import", "n", path("recordings")},
            {"ws", "drop", "n"},
            {"ws", "plot", "n", "--out", path("out")},
            {"record", "n", "--", "true"}};
  }
  std::vector<Words> of_handler() const {
    return {{"prepare", "n", "--socket", path("vm")}, {"ps"}, {"stop", "1"}};
  }
  std::vector<Words> of_files() const {
    return {{"fsck", path("none")},
            {"certs", "init", path("pki")},
            {"certs", "issue", path("none"), "n"},
            {"ws", "plot", "--trace", path("none"), "--out", path("out")}};
  }

  ScratchDirectory directory_;
};

TEST_F(CliErrorsTest, WrongArgumentsAreOneErrorForEveryCommand) {
  std::vector<Words> commands = of_server();
  for (const auto& more : {of_handler(), of_files()}) {
    commands.insert(commands.end(), more.begin(), more.end());
  }
  for (const Words& command : commands) {
    Words words = command;
    words.insert(words.begin() + 1, "--frobnicate");
    expect(json(words), 2, "invalid_argument", command.front());
  }
  for (const Words& words :
       {Words{"--json"}, Words{"--json", "frobnicate"}, Words{"ws", "--json"},
        Words{"show", "--json"}, Words{"show", "a", "b", "--json"},
        Words{"push", "n", "--memory=", "--json"}, Words{"--server", "nothing", "ls", "--json"},
        Words{"--json", "stop", "many"}}) {
    expect(thaw(words), 2, "invalid_argument", words.back());
  }
}

TEST_F(CliErrorsTest, NoAnswerIsOneErrorForEveryCommand) {
  write_file(path("image"), make_image(1, 16));
  for (const Words& command : of_server()) {
    if (command[1 % command.size()] == "import") continue;  // of a file that there is not
    expect(json(command), 4, "unavailable", command.front());
  }
  for (const Words& command : of_handler())
    expect(json(command), 4, "unavailable", command.front());
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(CliErrorsTest, SocketThatNoPageServerHasIsNoAnswer) {
  const std::string socket = path("s.sock");
  const auto ls = [&] { return thaw({"--server", "unix:" + socket, "--json", "ls"}); };
  const auto text = [&] { return Json::parse(ls().output)["error"]["text"].get<std::string>(); };
  const std::string wanted = "unavailable: no page server listens at unix:" + socket +
                             "; start thaw-pageserver or give --server";
  expect(ls(), 4, "unavailable", "there is none");
  EXPECT_EQ(text(), wanted);
  // One that a server which died has left.
  {
    const UniqueFd listener = listen_unix(socket, std::nullopt).value();
  }
  expect(ls(), 4, "unavailable", "it is of no process");
  EXPECT_EQ(text(), wanted);

  const Outcome bare = thaw({"--server", socket, "--json", "ls"});
  expect(bare, 2, "invalid_argument", "a path");
  EXPECT_TRUE(bare.output.contains("for a socket write unix:" + socket)) << bare.output;
}

TEST_F(CliErrorsTest, WhatIsNotThereOrIsThereAlready) {
  expect(json({"fsck", path("none")}), 3, "not_found", "fsck");
  expect(json({"certs", "issue", path("none"), "n"}), 3, "not_found", "certs issue");
  expect(json({"ws", "plot", "--trace", path("none"), "--out", path("out")}), 3, "not_found",
         "ws plot");
  expect(json({"push", "n", "--memory", path("none")}), 3, "not_found", "push");
  EXPECT_EQ(json({"certs", "init", path("pki")}).exit_code, 0);
  expect(json({"certs", "init", path("pki")}), 5, "already_exists", "certs init");
}

TEST_F(CliErrorsTest, SayWhatToDoNext) {
  const auto errors = [](const std::string& words) {
    return run({"/bin/sh", "-c", program_path("thaw") + " " + words + " 2>&1"}).output;
  };
  EXPECT_EQ(errors("ws shwo n"),
            "thaw: invalid_argument: there is no command \"shwo\"; did you mean \"show\"? "
            "`thaw ws --help` says what it takes.\n");
  EXPECT_EQ(errors("push n --memory " + path("none")),
            "thaw: not_found: open " + path("none") + " (No such file or directory).\n");
  // Names of certificates are none of the page server's.
  EXPECT_EQ(json({"certs", "init", path("pki")}).exit_code, 0);
  EXPECT_EQ(errors("certs revoke " + path("pki") + " n"),
            "thaw: not_found: " + path("pki") + " has issued no certificate \"n\".\n");
}

TEST_F(CliErrorsTest, ErrorsOfThePageServer) {
  write_file(path("image"), make_image(1, 16));
  const PageServer server(path("store"));
  const auto push = [&](const std::string& name, Words more = {}) {
    more.insert(more.begin(), {"push", name, "--memory", path("image")});
    return server.thaw(more);
  };
  EXPECT_EQ(push("there").exit_code, 0);
  expect(push("there"), 5, "already_exists", "push");
  for (const Words& command : of_server()) {
    if (command.size() < 2 || command.front() == "push" || command.front() == "backup") continue;
    expect(server.thaw(command), 3, "not_found", command.front());
  }
  for (const char* const name : {"a b", "a/b", "a:b", "\xff", "esc\x1b", ""}) {
    expect(push(name), 2, "invalid_argument", name);
  }
  for (const Words& more : {Words{"--label", "k=1", "--label", "k=2"}, Words{"--label", "k"},
                            Words{"--region", "x"}, Words{"--below-4g", "x", "--cr3", "0"}}) {
    expect(push("new", more), 2, "invalid_argument", more.back());
  }
  expect(server.thaw({"label", "there", "k=1", "k=2"}), 2, "invalid_argument", "label");
  expect(server.thaw({"namespace", "--quota", "much"}), 2, "invalid_argument", "namespace");
}

TEST_F(CliErrorsTest, PageServerRefusesAKeyTwiceWhoeverSendsIt) {
  write_file(path("image"), make_image(1, 16));
  const PageServer server(path("store"));
  ASSERT_EQ(server.thaw({"push", "there", "--memory", path("image")}).exit_code, 0);
  const std::vector<Label> labels{{"k", "1"}, {"k", "2"}};
  PageConnection peer(server.address(), message::Role::kControl);
  message::BeginPush push;
  push.spec.name = "n";
  push.spec.memory = {kPageBytes};
  push.spec.labels = labels;
  peer.send(push);
  EXPECT_EQ(peer.receive_error(), ErrorCode::kInvalidArgument);
  peer.send(message::ChangeLabels{"there", labels, {}});
  EXPECT_EQ(peer.receive_error(), ErrorCode::kInvalidArgument);
}

TEST_F(CliErrorsTest, PushTellsTheHashAndWhatIsInUseWhatToDo) {
  write_file(path("image"), make_image(1, 16));
  const PageServer server(path("store"));
  const auto say = [&](const std::string& words) {
    return run({"/bin/sh", "-c",
                program_path("thaw") + " --insecure --server " + server.address() + " " + words +
                    " 2>&1"});
  };
  const Outcome pushed = say("push n --memory " + path("image"));
  const Outcome shown = server.thaw({"show", "n"});
  const std::string hash = Json::parse(shown.output)["content_hash"];
  EXPECT_TRUE(pushed.output.contains("content: sha256 " + hash)) << pushed.output;

  const Outcome refused = say("namespace rm default");
  EXPECT_EQ(refused.exit_code, 5);
  EXPECT_TRUE(refused.output.contains("delete them with `thaw rm`")) << refused.output;
  EXPECT_FALSE(refused.output.contains("--kill")) << refused.output;
}

TEST_F(CliErrorsTest, NamesComeBackAsTheyWere) {
  write_file(path("image"), make_image(1, 16));
  const PageServer server(path("store"));
  for (const char* const name :
       {"[a,b]", "[x]", "-dash", "{}", "%s%n", "a,b", "true", "push", "ls", "\"q\\uote\""}) {
    const Outcome pushed = server.thaw({"push", "--memory", path("image"), "--", name});
    EXPECT_EQ(pushed.exit_code, 0) << name << ": " << pushed.output;
    const Outcome shown = server.thaw({"show", "--", name});
    EXPECT_EQ(Json::parse(shown.output)["name"], name) << shown.output;
  }
}

TEST_F(CliErrorsTest, ErrorsOfTheFaultHandlerKeepTheirCodes) {
  for (const auto& [error, exit_code] :
       {std::pair(ErrorCode::kNotFound, 3), std::pair(ErrorCode::kBusy, 5),
        std::pair(ErrorCode::kAlreadyExists, 5), std::pair(ErrorCode::kTimeout, 4),
        std::pair(ErrorCode::kPermission, 1), std::pair(ErrorCode::kInvalidArgument, 2)}) {
    const ScriptedHandler handler(
        path("c.sock"), [&](const ControlRequest&) { return Error(error, "text\xff\x1b[31m\n"); });
    for (Words command : of_handler()) {
      command.insert(command.begin(), {"--json", "--control", path("c.sock")});
      expect(thaw(command), exit_code, std::string(error_name(error)), command[3]);
    }
    std::filesystem::remove(path("c.sock"));
  }
}

TEST_F(CliErrorsTest, PathsThatAreNotUtf8WorkOrAreRefused) {
  const std::string odd = path("s\xff.sock");
  ScriptedHandler handler(path("c.sock"),
                          [](const ControlRequest&) { return control::Prepared{}; });
  for (const Words& more :
       {Words{"--socket", odd}, Words{"--socket", path("s"), "--state-out", odd},
        Words{"--socket", path("s"), "--trace", odd}}) {
    Words words{"--json", "--control", path("c.sock"), "prepare", "n"};
    words.insert(words.end(), more.begin(), more.end());
    expect(thaw(words), 2, "invalid_argument", more[0]);
  }
  EXPECT_TRUE(handler.requests<control::Prepare>().empty());

  const Outcome made = json({"certs", "init", path("pki\xff")});
  EXPECT_EQ(made.exit_code, 0);
  EXPECT_TRUE(Json::parse(made.output).contains("certificate"));
  EXPECT_TRUE(std::filesystem::exists(path("pki\xff/ca.pem")));

  write_file(path("image"), make_image(1, 16));
  const PageServer server(path("store"));
  ASSERT_EQ(
      server.thaw({"push", "n", "--memory", path("image"), "--label", "k=a\xff\x1b"}).exit_code, 0);
  EXPECT_EQ(server.thaw({"pull", "n", "--memory", path("out\xff")}).exit_code, 0);
  EXPECT_EQ(read_file(path("out\xff")), read_file(path("image")));
  expect(server.thaw({"pull", "n", "--memory", path("no\xff/x")}), 3, "not_found", "pull");
  EXPECT_TRUE(Json::parse(server.thaw({"ls"}).output).contains("snapshots"));
}

TEST_F(CliErrorsTest, TextOfOthersIsPrintedAndNotObeyed) {
  const std::string evil = "a\x1b[31m\nb\xff\x7f";
  const auto says = [&](const Words& words) {
    std::string command = program_path("thaw") + " --control " + path("c.sock");
    for (const std::string& word : words) command += " " + word;
    return run({"/bin/sh", "-c", command + " 2>&1"}).output;
  };
  const auto obeyed = [](const std::string& text) {
    return text.find_first_of("\x1b\x7f\xff") != std::string::npos;
  };
  {
    const ScriptedHandler handler(path("c.sock"), [&](const ControlRequest& request) {
      if (std::holds_alternative<control::Stop>(request)) {
        return ControlReply(Error(ErrorCode::kNotFound, evil));
      }
      if (std::holds_alternative<control::Prepare>(request)) {
        control::Prepared prepared;
        prepared.socket = evil;
        prepared.warnings = {evil};
        return ControlReply(prepared);
      }
      HandlerReport report;
      report.servers = {{.address = evil, .state = ServerState::kAway}};
      report.sessions.resize(1);
      report.sessions[0].snapshot = evil;
      report.sessions[0].outcome = evil;
      return ControlReply(report);
    });
    for (const Words& words :
         {Words{"ps"}, Words{"stop", "1"}, Words{"prepare", "n", "--socket", path("s")}}) {
      const std::string said = says(words);
      EXPECT_FALSE(obeyed(said)) << said;
      EXPECT_NE(said.find("a\\x1b[31m\\nb"), std::string::npos) << said;
    }
  }
  EXPECT_FALSE(obeyed(says({"'sh\x1bow'"})));
  EXPECT_FALSE(obeyed(
      says({"pull", "n", "--memory", "'no\xff\x1b/x'", "--insecure", "--server", "127.0.0.1:1"})));
}

TEST_F(CliErrorsTest, CertificateEndsNoLaterThanItsAuthority) {
  ASSERT_EQ(json({"certs", "init", path("pki"), "--days", "1"}).exit_code, 0);
  expect(json({"certs", "issue", path("pki"), "n", "--days", "365"}), 2, "invalid_argument",
         "days");
  EXPECT_FALSE(std::filesystem::exists(path("pki/n.pem")));
  const Json issued = Json::parse(json({"certs", "issue", path("pki"), "n"}).output);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto in_a_day = std::chrono::duration_cast<std::chrono::seconds>(now).count() + 86'400;
  EXPECT_LE(issued["valid_until_unix_s"].get<std::int64_t>(), in_a_day);
}

}  // namespace
}  // namespace thaw::test
