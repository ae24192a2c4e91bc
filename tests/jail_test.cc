// VMMs in a jail of their own, as Firecracker's jailer makes them: another root directory, another
// user, and a directory that nobody else may enter. The handler makes the socket in there.

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/socket.h"
#include "tests/support/hanging_files.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

constexpr uid_t kVmmUser = 65'534;
constexpr uid_t kStranger = 65'533;

class JailTest : public RestoreTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root makes jails";
    struct stat device{};
    const std::string dev = path("jail/dev");
    std::filesystem::create_directories(dev);
    std::filesystem::create_directories(path("jail/run"));
    if (::stat("/dev/userfaultfd", &device) == 0) {
      const std::string made = dev + "/userfaultfd";
      ASSERT_EQ(::mknod(made.c_str(), S_IFCHR | 0600, device.st_rdev), 0);
      ASSERT_EQ(::chown(made.c_str(), kVmmUser, kVmmUser), 0);
    }
    for (const std::string& directory : {path("jail"), path("jail/run"), dev}) {
      ASSERT_EQ(::chown(directory.c_str(), kVmmUser, kVmmUser), 0);
      ASSERT_EQ(::chmod(directory.c_str(), 0700), 0);
    }
    // The way there is open, as it is to a jail in /srv.
    std::filesystem::permissions(path("."), std::filesystem::perms::all);
  }

  std::uint64_t prepare_in_jail(std::vector<std::string> more = {}) {
    const std::string owner = std::to_string(kVmmUser) + ":" + std::to_string(kVmmUser);
    more.insert(more.end(), {"--owner", owner, "--state-out", path("jail/run/state")});
    return prepare(more, "jail/run/vm");
  }
  /// The VMM's user puts a link to another directory in the place of jail/run.
  void swap_for_link(const std::string& target) {
    std::filesystem::rename(path("jail/run"), path("jail/run.real"));
    std::filesystem::create_directory_symlink(target, path("jail/run"));
    ASSERT_EQ(::lchown(path("jail/run").c_str(), kVmmUser, kVmmUser), 0);
  }
  /// Another tenant's jail, whose files have the names of ours.
  void make_victim() {
    std::filesystem::create_directory(path("victim"));
    for (const char* const name : {"victim/vm", "victim/state"}) {
      write_file(path(name), as_bytes("victim"));
    }
  }
  void expect_untouched_victim() {
    for (const char* const name : {"victim/vm", "victim/state"}) {
      struct stat status{};
      ASSERT_EQ(::lstat(path(name).c_str(), &status), 0) << name;
      EXPECT_EQ(status.st_uid, ::geteuid()) << name;
      EXPECT_EQ(as_text(read_file(path(name))), "victim") << name;
    }
    const std::filesystem::directory_iterator all(path("victim"));
    EXPECT_EQ(std::ranges::distance(begin(all), end(all)), 2);
  }
  std::string refusal(const std::vector<std::string>& more = {}) {
    return refusal_at(path("jail/run/vm"), path("jail/run/state"), more);
  }
  std::string refusal_at(const std::string& socket, const std::string& state,
                         const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"prepare", "snapshot", "--socket", socket, "--state-out", state};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = control(words);
    EXPECT_NE(outcome.exit_code, 0);
    return Json::parse(outcome.output)["error"]["code"];
  }
  void replace_worker() {
    const pid_t before = handler_->worker();
    ASSERT_EQ(::kill(before, SIGKILL), 0);
    const Deadline deadline = Deadline::after(kPatience);
    while ((handler_->worker() == before || handler_->worker() == 0 ||
            control({"ps"}).exit_code != 0) &&
           !deadline.passed()) {
      std::this_thread::yield();
    }
  }
  Program launch_jailed(const std::string& mode, const std::string& socket = "/run/vm") const {
    Surroundings jail;
    // LeakSanitizer needs /proc, which a jail has not.
    jail.environment = {{"THAW_TEST_JAIL", path("jail")},
                        {"THAW_TEST_UID", std::to_string(kVmmUser)},
                        {"ASAN_OPTIONS", "detect_leaks=0"}};
    return Program({program_path("vmm"), socket, path("image"), mode}, jail);
  }
  Program start_jailed(const std::string& mode, const std::string& socket = "/run/vm") {
    Program vmm = launch_jailed(mode, socket);
    const auto line = vmm.wait_for_line("handed over");
    EXPECT_TRUE(succeeded(line));
    return vmm;
  }
};

INSTANTIATE_TEST_SUITE_P(Loops, JailTest, both_loops(), loop_name);

TEST_P(JailTest, VmmIsServedThroughTheSocketOfItsJail) {
  const std::uint64_t number = prepare_in_jail();
  for (const std::string& name : {path("jail/run/vm"), path("jail/run/state")}) {
    struct stat status{};
    ASSERT_EQ(::stat(name.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600) << name;
    EXPECT_EQ(status.st_uid, kVmmUser) << name;
    EXPECT_EQ(status.st_gid, kVmmUser) << name;
  }
  Program vmm = start_jailed("verify");
  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
  wait_for_state(number, "ended");
  EXPECT_FALSE(std::filesystem::exists(path("jail/run/vm")));
}

TEST_P(JailTest, VmmThatMapsTheHostsImageIsServed) {
  prepare_in_jail({"--shared"});
  Program vmm = start_jailed("shared-unmap");  // its maps are read
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
}

TEST_P(JailTest, TraceAppearsWhereTheOperatorWantsIt) {
  prepare_in_jail({"--trace", path("trace"), "--no-record"});
  Program vmm = start_jailed("verify");
  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
  const Deadline deadline = Deadline::after(kPatience);
  while (!std::filesystem::exists(path("trace")) && !deadline.passed()) std::this_thread::yield();
  ASSERT_TRUE(std::filesystem::exists(path("trace")));
  EXPECT_GT(std::filesystem::file_size(path("trace")), 64u);
}

/// Only its maps tell that what it has mapped is not what it says.
TEST_P(JailTest, VmmThatMapsTheImageAtOtherPlacesIsRefused) {
  const std::uint64_t number = prepare_in_jail({"--shared"});
  Program vmm = launch_jailed("shared-swapped");
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  const std::string outcome = wait_for_state(number, "ended")["outcome"];
  EXPECT_TRUE(outcome.starts_with("region_mismatch")) << outcome;
}

TEST_P(JailTest, VmmOfAnotherUserIsKilledWhenAskedFor) {
  const std::uint64_t number = prepare_in_jail();
  Program vmm = start_jailed("hold");
  wait_for_state(number, "serving");
  EXPECT_EQ(control({"stop", std::to_string(number), "--kill"}).exit_code, 0);
  // No parent has waited for it: only a process that may look into it is told how it has ended.
  EXPECT_EQ(wait_for_state(number, "ended")["vmm_exit"], "signal 9 (SIGKILL)");
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
}

TEST_P(JailTest, NobodyElseMayConnect) {
  prepare_in_jail();
  // Even where the directory lets him in.
  ASSERT_EQ(::chmod(path("jail").c_str(), 0755), 0);
  ASSERT_EQ(::chmod(path("jail/run").c_str(), 0755), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setuid(kStranger) != 0) ::_exit(2);
    const auto connected = connect_unix(path("jail/run/vm"), Deadline::after(kPatience));
    ::_exit(code_of(connected) == ErrorCode::kPermission ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

/// A program in a PID namespace below that of the tests.
std::vector<std::string> in_pid_namespace(const std::vector<std::string>& command) {
  std::vector<std::string> all{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc"};
  all.insert(all.end(), command.begin(), command.end());
  return all;
}

TEST_P(JailTest, VmmInAPidNamespaceBelowIsServedAndKilled) {
  const std::uint64_t number = prepare();
  Program vmm(in_pid_namespace({program_path("vmm"), path("vm"), path("image"), "halves"}));
  ASSERT_TRUE(succeeded(vmm.wait_for_line("half")));
  const Json report = session(number);
  EXPECT_GT(report["vmm_pid"], 1);
  EXPECT_FALSE(report["vmm_unseen"]);
  EXPECT_EQ(control({"stop", std::to_string(number), "--kill"}).exit_code, 0);
  EXPECT_NE(vmm.wait().value(), 0);
  EXPECT_EQ(wait_for_state(number, "ended")["outcome"], "stopped, and the VMM killed");
}

/// The handler in the PID namespace below: the VMM has no number there, and cannot be killed.
class PidNamespaceTest : public JailTest {
 protected:
  void SetUp() override {
    JailTest::SetUp();
    if (IsSkipped()) return;
    handler_.reset();
    handler_ = std::make_unique<Program>(
        in_pid_namespace({program_path("thaw-faulthandler"), "--control", path("control"),
                          "--insecure", "--server", server_.address()}));
    ASSERT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
  }
};

INSTANTIATE_TEST_SUITE_P(Loops, PidNamespaceTest, testing::Values(LoopKind::kUring), loop_name);

TEST_P(PidNamespaceTest, VmmOutsideIsServedAndNeverSaidToBeKilled) {
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  const Json report = session(number);
  EXPECT_EQ(report["vmm_pid"], 0);
  EXPECT_TRUE(report["vmm_unseen"]);
  const Outcome stop = control({"stop", std::to_string(number), "--kill"});
  EXPECT_NE(stop.exit_code, 0);
  EXPECT_EQ(Json::parse(stop.output)["error"]["code"], "permission") << stop.output;
  EXPECT_EQ(session(number)["outcome"], "");
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
  const Json ended = wait_for_state(number, "ended");
  EXPECT_FALSE(ended["outcome"].get<std::string>().contains("kill")) << ended;
}

TEST_P(PidNamespaceTest, VmmOutsideMapsTheHostImage) {
  for (const std::string mode : {"shared-verify", "shared-scribble"}) {
    const std::uint64_t number = prepare({"--shared"});
    Program vmm = start_vmm(mode);
    EXPECT_EQ(vmm.wait().value(), 0) << mode << ": " << vmm.rest_of_output();
    wait_for_state(number, "ended");
  }
  prepare({"--shared"});
  Program unmaps = start_vmm("shared-unmap");
  unmaps.tell("go on");
  EXPECT_EQ(unmaps.wait().value(), 0) << unmaps.rest_of_output();
}

TEST_P(PidNamespaceTest, RefusedVmmOutsideIsNotSaidToBeKilled) {
  const std::uint64_t number = prepare({"--shared"});
  Program vmm = start_vmm("verify");
  const std::string outcome = wait_for_state(number, "refused")["outcome"];
  EXPECT_TRUE(outcome.starts_with("region_mismatch")) << outcome;
  EXPECT_NE(outcome.find("was not killed"), std::string::npos) << outcome;
  vmm.signal(SIGKILL);
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  wait_for_state(number, "ended");
}

TEST_P(JailTest, ParentSwappedBeforePrepareLeadsNowhere) {
  make_victim();
  swap_for_link(path("victim"));
  EXPECT_EQ(refusal(), "permission");
  EXPECT_EQ(refusal({"--trace", path("jail/run/trace"), "--no-record"}), "permission");
  // A directory of root's that stood in the jail, moved.
  std::filesystem::remove(path("jail/run"));
  std::filesystem::rename(path("victim"), path("jail/run"));
  EXPECT_EQ(refusal(), "permission");
  std::filesystem::rename(path("jail/run"), path("victim"));
  expect_untouched_victim();
  // Nor is a pipe waited for.
  ASSERT_EQ(::mkfifo(path("jail/run").c_str(), 0600), 0);
  refusal();
}

TEST_P(JailTest, ParentSwappedWhileAVmmIsAwaitedLeadsNowhere) {
  make_victim();
  const std::uint64_t number = prepare_in_jail();
  swap_for_link(path("victim"));

  Program vmm = start_jailed("verify", "/run.real/vm");

  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
  wait_for_state(number, "ended");
  expect_untouched_victim();
  EXPECT_FALSE(std::filesystem::exists(path("jail/run.real/vm")));
}

TEST_P(JailTest, ParentSwappedBeforeAStopOrARestartLeadsNowhere) {
  make_victim();
  const std::uint64_t number = prepare_in_jail();
  swap_for_link(path("victim"));
  replace_worker();
  EXPECT_EQ(control({"stop", std::to_string(number)}).exit_code, 0);
  wait_for_state(number, "ended");
  const Deadline deadline = Deadline::after(kPatience);
  while (std::filesystem::exists(path("jail/run.real/vm")) && !deadline.passed()) {
    std::this_thread::yield();
  }
  EXPECT_FALSE(std::filesystem::exists(path("jail/run.real/vm")));
  expect_untouched_victim();
}

TEST_P(JailTest, StoppedSessionsPathIsFreeAtOnce) {
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t number = prepare_in_jail();
    EXPECT_EQ(control({"stop", std::to_string(number)}).exit_code, 0);
  }
  prepare_in_jail();
  Program vmm = start_jailed("verify");
  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
}

TEST_P(JailTest, RestartLeavesASessionThatCameLaterItsSocket) {
  const std::uint64_t first = prepare_in_jail();
  Program vmm = start_jailed("hold");
  wait_for_state(first, "serving");
  prepare_in_jail();

  replace_worker();

  EXPECT_EQ(control({"stop", std::to_string(first), "--kill"}).exit_code, 0);
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  Program second = start_jailed("verify");
  EXPECT_EQ(second.wait().value(), 0) << second.rest_of_output();
}

/// A process of the jail's user that keeps a lease on a file until its end is asked for. Opening
/// the file would break the lease, or wait until it is given back.
class LeaseHolder {
 public:
  explicit LeaseHolder(const std::string& file) {
    CHECK(::pipe2(go_on_.data(), O_CLOEXEC) == 0 && ::pipe2(ready_.data(), O_CLOEXEC) == 0);
    child_ = ::fork();
    if (child_ == 0) ::_exit(hold(file));
    char byte = 0;
    CHECK(::read(ready_[0], &byte, 1) == 1);
  }
  /// Whether no open has touched the lease.
  bool was_left_alone() {
    CHECK(::write(go_on_[1], "x", 1) == 1);
    int status = 0;
    return ::waitpid(child_, &status, 0) == child_ && status == 0;
  }

 private:
  int hold(const std::string& file) const {
    ::signal(SIGIO, SIG_IGN);
    if (::setgid(kVmmUser) != 0 || ::setuid(kVmmUser) != 0) return 2;
    const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    const bool holds = fd >= 0 && ::fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
    char byte = 0;
    if (::write(ready_[1], "x", 1) != 1 || ::read(go_on_[0], &byte, 1) != 1) return 3;
    return holds && ::fcntl(fd, F_GETLEASE) == F_WRLCK ? 0 : 1;
  }

  std::array<int, 2> go_on_{};
  std::array<int, 2> ready_{};
  pid_t child_ = 0;
};

TEST_P(JailTest, WhatStandsInTheWayOfTheStateFileIsNeitherOpenedNorReused) {
  LeaseHolder leased(path("jail/run/state"));
  LeaseHolder partial(path("jail/run/state.partial"));
  ASSERT_EQ(::chmod(path("jail/run/state").c_str(), 0666), 0);
  const UniqueFd before(::open(path("jail/run/state").c_str(), O_PATH | O_CLOEXEC));

  prepare_in_jail();

  EXPECT_TRUE(leased.was_left_alone());
  EXPECT_TRUE(partial.was_left_alone());
  struct stat old{};
  struct stat made{};
  ASSERT_EQ(::fstat(before.get(), &old), 0);
  ASSERT_EQ(::stat(path("jail/run/state").c_str(), &made), 0);
  EXPECT_NE(old.st_ino, made.st_ino);
  EXPECT_EQ(made.st_mode & 0777, 0600);
  EXPECT_EQ(made.st_uid, kVmmUser);
  EXPECT_EQ(read_file(path("jail/run/state")), state_);
}

TEST_P(JailTest, FileSystemThatMayKeepTheHandlerWaitingIsRefused) {
  std::filesystem::create_directory(path("files"));
  const HangingFiles files(path("files"));
  EXPECT_EQ(refusal_at(path("files/vm"), path("jail/run/state")), "unsupported");
  EXPECT_EQ(refusal_at(path("jail/run/vm"), path("files/state")), "unsupported");
  EXPECT_EQ(refusal({"--trace", path("files/trace"), "--no-record"}), "unsupported");
  EXPECT_EQ(refusal_at("/proc/self/vm", path("jail/run/state")), "unsupported");
  prepare_in_jail();
}

TEST_P(JailTest, SharedImageIsKeptFromARootVmm) {
  const std::string owner = std::to_string(kVmmUser) + ":" + std::to_string(kVmmUser);
  const Outcome prepared = control(
      {"prepare", "snapshot", "--shared", "--socket", path("jail/run/vm"), "--owner", owner});
  ASSERT_EQ(prepared.exit_code, 0) << prepared.output;
  Program root({program_path("vmm"), path("jail/run/vm"), path("image"), "shared-verify"});
  EXPECT_NE(root.wait().value(), 0);
  const std::uint64_t number = Json::parse(prepared.output)["session"];
  EXPECT_EQ(session(number)["state"], "prepared");
  Program vmm = start_jailed("shared-verify");
  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
}

/// The kernel lets each process that maps an image make zeros of what it lacks.
TEST_P(JailTest, EachUserHasAnImageThatNoOtherMaps) {
  const std::uint64_t number = prepare({"--shared"});
  Program half = start_vmm("shared-halves");
  ASSERT_TRUE(succeeded(half.wait_for_line("half")));
  prepare_in_jail({"--shared"});
  const Program spoiler = start_jailed("shared-spoil");
  // The handler that takes over tells the images apart, too.
  replace_worker();
  half.tell("go on");
  EXPECT_EQ(half.wait().value(), 0) << half.rest_of_output();
  wait_for_state(number, "ended");
  prepare({"--shared"});
  EXPECT_EQ(start_vmm("shared-verify").wait().value(), 0);
}

TEST_P(JailTest, SharedMemoryForAnOwnerWhoIsRootIsRefusedUnlessItIsAllowed) {
  std::vector<std::string> command{"prepare", "snapshot", "--shared", "--socket", path("vm")};
  EXPECT_EQ(Json::parse(control(command).output)["error"]["code"], "invalid_argument");
  EXPECT_FALSE(std::filesystem::exists(path("vm")));
  command.emplace_back("--allow-root-vmm");
  EXPECT_EQ(control(command).exit_code, 0);
  Program root({program_path("vmm"), path("vm"), path("image"), "shared-verify"});
  EXPECT_EQ(root.wait().value(), 0) << root.rest_of_output();
}

TEST_P(JailTest, WhatTheJailHasPreparedInsteadOfAFileIsNotOverwritten) {
  write_file(path("precious"), as_bytes("precious"));
  const auto prepare = [&](const std::string& number) {
    return control({"prepare", "snapshot", "--socket", path("jail/run/vm" + number), "--state-out",
                    path("jail/run/state")});
  };
  std::filesystem::create_symlink(path("precious"), path("jail/run/state"));
  EXPECT_EQ(Json::parse(prepare("1").output)["error"]["code"], "already_exists");
  std::filesystem::remove(path("jail/run/state"));
  ASSERT_EQ(::mkfifo(path("jail/run/state").c_str(), 0600), 0);
  EXPECT_EQ(Json::parse(prepare("2").output)["error"]["code"], "already_exists");
  EXPECT_TRUE(std::filesystem::is_fifo(path("jail/run/state")));
  std::filesystem::remove(path("jail/run/state"));
  std::filesystem::create_hard_link(path("precious"), path("jail/run/state"));
  EXPECT_EQ(prepare("3").exit_code, 0) << "the name in the jail is another file's from now on";
  EXPECT_EQ(read_file(path("precious")).size(), std::string("precious").size());
}

}  // namespace
}  // namespace thaw::test
