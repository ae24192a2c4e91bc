// `thaw` where nothing can be printed: the exit code says so.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include "tests/support/programs.h"
#include "tests/support/scripted_handler.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

/// The exit code of `thaw` started by a shell with this redirection.
int run_redirected(const std::string& redirection, std::vector<std::string> arguments) {
  const std::vector<std::string> shell{"sh", "-c", "exec \"$@\" " + redirection, "sh",
                                       program_path("thaw")};
  arguments.insert(arguments.begin(), shell.begin(), shell.end());
  return run(arguments).exit_code;
}

class CliOutputTest : public testing::Test {
 protected:
  /// What prints something when it succeeds, with and without a handler.
  std::vector<std::vector<std::string>> printing_commands() const {
    const std::string control = directory_.path("control");
    return {{"--help"},
            {"push", "--help"},
            {"--version"},
            {"certs", "issue", directory_.path("pki"), "name"},
            {"--json", "certs", "issue", directory_.path("pki"), "name"},
            {"--control", control, "ps"},
            {"--json", "--control", control, "ps"},
            {"--json", "--control", control, "stop", "1"}};
  }

  const ScratchDirectory directory_;
  ScriptedHandler handler_{directory_.path("control"), [](const ControlRequest& request) {
                             return std::holds_alternative<control::List>(request)
                                        ? ControlReply(HandlerReport{})
                                        : ControlReply(Stopped{});
                           }};
};

TEST_F(CliOutputTest, OutputThatCannotBeWrittenIsAFailure) {
  ASSERT_EQ(run_redirected("", {"certs", "init", directory_.path("pki")}), 0);
  for (const auto& command : printing_commands()) {
    EXPECT_EQ(run_redirected("", command), 0) << testing::PrintToString(command);
    for (const char* const redirection : {">/dev/full", ">&-", ">/dev/full 2>&1", ">&- 2>&-"}) {
      EXPECT_EQ(run_redirected(redirection, command), 1)
          << testing::PrintToString(command) << " " << redirection;
    }
  }
}

TEST_F(CliOutputTest, AReaderThatIsGoneIsAFailureAndNoSignal) {
  const std::string pipe = directory_.path("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  UniqueFd reader(::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  Surroundings surroundings;
  surroundings.messages = directory_.path("messages");
  Program thaw({"sh", "-c", R"(exec >"$1"; echo open >&2; read line; exec "$2" --help)", "sh", pipe,
                program_path("thaw")},
               surroundings);
  const Deadline deadline = Deadline::after(kPatience);
  while (read_file(directory_.path("messages")).empty() && !deadline.passed()) {
    ::poll(nullptr, 0, 2);
  }
  reader.reset();
  thaw.tell("go on");

  EXPECT_EQ(thaw.wait().value_or(-1), 1);
}

TEST_F(CliOutputTest, MessagesThatCannotBeWrittenChangeNoExitCode) {
  const std::string nothing = directory_.path("nothing");
  const std::string pki = directory_.path("pki");
  ASSERT_EQ(run_redirected("", {"certs", "init", pki}), 0);
  for (const char* const redirection : {"2>/dev/full", "2>&-", "<&- >&- 2>&-"}) {
    EXPECT_EQ(run_redirected(redirection, {"--control", nothing, "ps"}), 4) << redirection;
    EXPECT_EQ(run_redirected(redirection, {"no-such-command"}), 2) << redirection;
    EXPECT_EQ(run_redirected(redirection, {"certs", "init", pki}), 5) << redirection;
  }
  EXPECT_EQ(run_redirected("2>/dev/full", {"--control", directory_.path("control"), "ps"}), 0);
}

}  // namespace
}  // namespace thaw::test
