#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include <sys/stat.h>

#include "base/event_fd.h"
#include "base/file.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/temporary_directory.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::ScratchDirectory;
using test::succeeded;

Deadline soon() { return Deadline::after(std::chrono::seconds(30)); }

Result<ChildProcess> shell(const std::string& script,
                           const std::vector<EnvironmentVariable>& environment = {}) {
  return ChildProcess::start({"sh", "-c", script}, environment);
}

std::string content_of(const std::string& path) { return read_text_file(path, 4096).value_or(""); }

/// Waits until the file has a line, and returns it.
std::string first_line(const std::string& path) {
  const Deadline deadline = soon();
  std::string text;
  while (text.find('\n') == text.npos && !deadline.passed()) text = content_of(path);
  return text.substr(0, text.find('\n'));
}

TEST(ChildProcess, ExitCodeIsKeptUntilItIsAskedFor) {
  const auto child = shell("exit 7");
  ASSERT_TRUE(succeeded(child));
  ASSERT_TRUE(succeeded(wait_for_exit(child->pidfd(), soon())));
  EXPECT_EQ(child->status(), ExitStatus{.code = 7});
  EXPECT_EQ(child->status(), ExitStatus{.code = 7}) << "it is not reaped yet";
  EXPECT_EQ(child->status()->text(), "exited with code 7");
}

TEST(ChildProcess, RunsOnUntilItIsSignalled) {
  const auto child = shell("sleep 1000");
  ASSERT_TRUE(succeeded(child));
  EXPECT_EQ(child->status(), std::nullopt);
  child->signal_group(SIGTERM);
  ASSERT_TRUE(succeeded(wait_for_exit(child->pidfd(), soon())));
  EXPECT_EQ(child->status(), ExitStatus{.signal = SIGTERM});
  EXPECT_EQ(child->status()->text(), "was killed by signal 15 (SIGTERM)");
}

TEST(ChildProcess, ProgramThatIsNotThereIsNamed) {
  const auto child = ChildProcess::start({"thaw-no-such-program"}, {});
  EXPECT_EQ(code_of(child), ErrorCode::kNotFound);
  EXPECT_NE(child.error().message().find("thaw-no-such-program"), std::string::npos);
  const ScratchDirectory scratch;
  std::ofstream(scratch.path("text")) << "no program";
  EXPECT_EQ(code_of(ChildProcess::start({scratch.path("text")}, {})), ErrorCode::kPermission);
}

TEST(ChildProcess, EnvironmentIsOursWithAdditionsPutIn) {
  const ScratchDirectory scratch;
  ::setenv("THAW_TEST_KEPT", "kept", 1);
  ::setenv("THAW_TEST_CHANGED", "before", 1);
  const auto child = shell(
      "echo $THAW_TEST_KEPT $THAW_TEST_CHANGED $THAW_TEST_NEW >$OUT",
      {{"THAW_TEST_CHANGED", "after"}, {"THAW_TEST_NEW", "a b=c"}, {"OUT", scratch.path("o")}});
  ASSERT_TRUE(succeeded(child));
  EXPECT_EQ(first_line(scratch.path("o")), "kept after a b=c");
}

TEST(ChildProcess, StartsWithNoSignalBlocked) {
  const ScratchDirectory scratch;
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto child = shell("grep SigBlk /proc/self/status >$OUT", {{"OUT", scratch.path("o")}});
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(succeeded(child));
  EXPECT_EQ(first_line(scratch.path("o")), "SigBlk:\t0000000000000000");
}

TEST(ChildProcess, InputIsEmpty) {
  const auto child = ChildProcess::start({"cat"}, {});
  ASSERT_TRUE(succeeded(child));
  ASSERT_TRUE(succeeded(wait_for_exit(child->pidfd(), soon())));
  EXPECT_EQ(child->status(), ExitStatus{.code = 0});
}

TEST(ChildProcess, GroupGoesWithIt) {
  const ScratchDirectory scratch;
  pid_t grandchild = 0;
  {
    const auto child =
        shell("trap '' TERM; sleep 1000 & echo $! >$OUT; wait", {{"OUT", scratch.path("o")}});
    ASSERT_TRUE(succeeded(child));
    grandchild = std::stoi(first_line(scratch.path("o")));
    ASSERT_EQ(::kill(grandchild, 0), 0);
    child->signal_group(SIGTERM);
    EXPECT_EQ(child->status(), std::nullopt) << "both ignore it";
  }
  const Deadline deadline = soon();
  while (test::is_running(grandchild) && !deadline.passed()) {
  }
  EXPECT_FALSE(test::is_running(grandchild));
}

TEST(TemporaryDirectory, IsForItsOwnerAndGoesWithItsContent) {
  std::string path;
  {
    auto created = TemporaryDirectory::create("thaw-test");
    ASSERT_TRUE(succeeded(created));
    const TemporaryDirectory directory = *std::move(created);
    path = directory.path("file");
    std::ofstream(path) << "content";
    struct stat status{};
    ASSERT_EQ(::stat(std::filesystem::path(path).parent_path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0700u);
    EXPECT_TRUE(std::filesystem::exists(path));
  }
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(path).parent_path()));
}

TEST(EventFd, ReadableIsWaitedForUntilTheDeadline) {
  const UniqueFd fd = create_event_fd().value();
  EXPECT_FALSE(wait_until_readable(fd, Deadline::after(std::chrono::milliseconds(1))));
  signal_event_fd(fd);
  EXPECT_TRUE(wait_until_readable(fd, soon()));
}

}  // namespace
}  // namespace thaw
