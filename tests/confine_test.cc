// What the servers have given up: in a child that confines itself, and in the real programs.

#include "base/confine.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faulthandler/limits.h"
#include "tests/support/programs.h"
#include "tests/support/restore_fixture.h"
#include "tests/support/seccomp.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

/// Runs `act` in a child that has confined itself, and returns what it returns.
template <typename Act>
int confined(Act act) {
  const pid_t child = ::fork();
  EXPECT_GE(child, 0);
  if (child == 0) {
    constexpr std::array kKept{Capability::kKill};
    ::_exit(confine(kKept) ? act() : 100);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Forbidden {
  const char* name;
  long number;
};
constexpr std::array kForbidden{
    Forbidden{"execve", SYS_execve},
    Forbidden{"execveat", SYS_execveat},
    Forbidden{"vfork", SYS_vfork},
    Forbidden{"fork", SYS_fork},
    Forbidden{"clone", SYS_clone},  // without a flag: a process
    Forbidden{"unshare", SYS_unshare},
    Forbidden{"setns", SYS_setns},
    Forbidden{"ptrace", SYS_ptrace},
    Forbidden{"process_vm_readv", SYS_process_vm_readv},
    Forbidden{"process_vm_writev", SYS_process_vm_writev},
    Forbidden{"pidfd_getfd", SYS_pidfd_getfd},
    Forbidden{"mount", SYS_mount},
    Forbidden{"umount2", SYS_umount2},
    Forbidden{"pivot_root", SYS_pivot_root},
    Forbidden{"chroot", SYS_chroot},
    Forbidden{"init_module", SYS_init_module},
    Forbidden{"finit_module", SYS_finit_module},
    Forbidden{"kexec_load", SYS_kexec_load},
    Forbidden{"bpf", SYS_bpf},
    Forbidden{"perf_event_open", SYS_perf_event_open},
    Forbidden{"keyctl", SYS_keyctl},
    Forbidden{"add_key", SYS_add_key},
    Forbidden{"setuid", SYS_setuid},
    Forbidden{"capset", SYS_capset},
    Forbidden{"reboot", SYS_reboot},
    Forbidden{"swapon", SYS_swapon},
    Forbidden{"acct", SYS_acct},
    Forbidden{"personality", SYS_personality},
};

TEST(Confine, ForbiddenCallsFail) {
  for (const auto& [name, number] : kForbidden) {
    EXPECT_EQ(confined([&, n = number] {
                // Arguments with which none of them would do harm.
                return ::syscall(n, 0, 0, 0, 0, 0) == -1 && errno == EPERM ? 0 : 1;
              }),
              0)
        << name;
  }
}

TEST(Confine, WhoBeginsProgramsHasNoMoreThanThat) {
  const auto denied = [](long number) {
    const pid_t child = ::fork();
    if (child == 0) {
      const bool confined = confine({}, SystemCalls::kOfAll).has_value();
      ::_exit(confined && ::syscall(number, 0, 0, 0, 0, 0) == -1 && errno == EPERM ? 0 : 1);
    }
    int status = 0;
    return ::waitpid(child, &status, 0) == child && status == 0;
  };
  for (const long number : {SYS_ptrace, SYS_mount, SYS_bpf, SYS_setns, SYS_unshare}) {
    EXPECT_TRUE(denied(number)) << number;
  }
  EXPECT_FALSE(denied(SYS_fork)) << "and its like, which it is there for";
}

TEST(Confine, ThreadsFilesMemoryAndSocketsAreLeft) {
  EXPECT_EQ(confined([] {
              int sum = 0;
              std::thread([&] { sum = 5; }).join();
              const int file = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
              const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
              void* const memory =
                  ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
              return sum == 5 && file >= 0 && socket >= 0 && memory != MAP_FAILED ? 0 : 1;
            }),
            0);
}

bool has_landlock() {
  return ::syscall(SYS_landlock_create_ruleset, nullptr, std::size_t{0},
                   LANDLOCK_CREATE_RULESET_VERSION) >= 2;
}

bool opens(const std::string& path, int flags) {
  const UniqueFd file(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  return file.valid();
}

TEST(Confine, FilesThatAreNotNamedAreOutOfReach) {
  if (!has_landlock()) GTEST_SKIP() << "the kernel has no Landlock";
  const ScratchDirectory directory;
  const auto path = [&](const std::string& name) { return directory.path(name); };
  for (const char* const name : {"read", "own", "others"}) {
    std::filesystem::create_directory(path(name));
    write_file(path(name) + "/file", as_bytes("text"));
  }
  write_file(path("log"), as_bytes("text"));
  std::filesystem::create_symlink(path("others/file"), path("own/link"));
  const FilesLeft left{.read = {path("read"), path("nothing")},
                       .write = {path("own"), path("log")}};
  const auto act = [&] {
    const bool as_named =
        opens(path("read/file"), O_RDONLY) && opens(path("own/file"), O_RDWR | O_TRUNC) &&
        opens(path("own/new"), O_WRONLY | O_CREAT) && opens(path("log"), O_WRONLY | O_APPEND) &&
        ::mkdir(path("own/below").c_str(), 0700) == 0 &&
        ::rename(path("own/new").c_str(), path("own/below/new").c_str()) == 0;
    const bool more =
        opens(path("read/file"), O_WRONLY) || opens(path("read/new"), O_WRONLY | O_CREAT) ||
        opens(path("others/file"), O_RDONLY) || opens(path("others"), O_RDONLY | O_DIRECTORY) ||
        opens(path("own/link"), O_RDONLY) || opens(path("new"), O_WRONLY | O_CREAT) ||
        ::unlink(path("others/file").c_str()) == 0 || ::unlink(path("log").c_str()) == 0 ||
        ::rename(path("own/file").c_str(), path("others/new").c_str()) == 0;
    return !as_named ? 1 : more ? 2 : 0;
  };
  const pid_t child = ::fork();
  if (child == 0) ::_exit(confine({}, SystemCalls::kOfServers, left) ? act() : 100);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0) << "1: of the named ones one is not left; 2: another is";
}

/// Whether a process with one capability confines itself to `kept` where it may not call capset.
bool confines_without_capset(std::span<const Capability> kept) {
  const pid_t child = ::fork();
  if (child == 0) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> one{};
    one[0].permitted = one[0].effective = CAP_TO_MASK(CAP_KILL);
    if (::syscall(SYS_capset, &header, one.data()) != 0) ::_exit(100);
    forbid_capset();
    ::_exit(confine(kept) ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status == 0;
}

/// systemd's filter of system calls may have no capset.
TEST(Confine, NeedsNoCallToGiveUpWhatItDoesNotHave) {
  if (::geteuid() != 0) GTEST_SKIP() << "there is nothing to give up";
  constexpr std::array kMore{Capability::kKill, Capability::kSysNice};
  EXPECT_TRUE(confines_without_capset(kMore));
  EXPECT_FALSE(confines_without_capset({}));
}

/// "Name:" to value, of /proc/PROCESS/status.
std::map<std::string, std::string> status_of(const std::filesystem::path& process) {
  std::map<std::string, std::string> fields;
  std::ifstream status(process / "status");
  for (std::string line; std::getline(status, line);) {
    const std::size_t colon = line.find(':');
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    if (colon != line.npos && value != line.npos) {
      fields[line.substr(0, colon)] = line.substr(value);
    }
  }
  return fields;
}

void expect_confined(pid_t pid, std::uint64_t capabilities, std::size_t least_threads = 2) {
  const std::filesystem::path process = "/proc/" + std::to_string(pid);
  std::size_t threads = 0;
  for (const auto& thread : std::filesystem::directory_iterator(process / "task")) {
    auto status = status_of(thread.path());
    EXPECT_EQ(status["Seccomp"], "2") << status["Name"];
    EXPECT_EQ(status["NoNewPrivs"], "1") << status["Name"];
    for (const char* const set : {"CapEff", "CapPrm", "CapInh", "CapAmb"}) {
      EXPECT_EQ(std::stoull(status[set], nullptr, 16) & ~capabilities, 0u)
          << set << " of " << status["Name"];
    }
    ++threads;
  }
  EXPECT_GE(threads, least_threads);
  std::ifstream filter(process / "coredump_filter");
  std::string text;
  filter >> text;
  EXPECT_EQ(std::stoull(text, nullptr, 16), 0u) << "memory would be in core dumps";
}

constexpr std::uint64_t bits(std::initializer_list<unsigned> capabilities) {
  std::uint64_t all = 0;
  for (const unsigned capability : capabilities) all |= 1ull << capability;
  return all;
}
constexpr std::uint64_t kOfPageServer = bits({CAP_SYS_NICE});
constexpr std::uint64_t kOfHandler = bits({CAP_IPC_LOCK, CAP_KILL, CAP_SYS_NICE});
constexpr std::uint64_t kOfErrands = bits({CAP_SYS_PTRACE});
constexpr std::uint64_t kOfSupervisor = kOfHandler | kOfErrands | bits({CAP_DAC_OVERRIDE});

class ConfinedProgramsTest : public RestoreTest {};
INSTANTIATE_TEST_SUITE_P(Loops, ConfinedProgramsTest, both_loops(), loop_name);

TEST_P(ConfinedProgramsTest, AllThreadsAreWhileTheyServe) {
  prepare();
  Program vmm = start_half();
  expect_confined(server_.pid(), kOfPageServer);
  expect_confined(handler_->worker(), kOfHandler);
  expect_confined(handler_->pid(), kOfSupervisor, 1);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
}

/// Looking into processes is left to threads that have no other right.
TEST_P(ConfinedProgramsTest, OnlyThreadsForErrandsMayLookIntoVmms) {
  if (::geteuid() != 0) GTEST_SKIP() << "nobody has capabilities";
  const std::filesystem::path process = "/proc/" + std::to_string(handler_->pid());
  const auto for_errands = [&] {
    std::size_t threads = 0;
    for (const auto& thread : std::filesystem::directory_iterator(process / "task")) {
      if (std::stoull(status_of(thread.path())["CapEff"], nullptr, 16) == kOfErrands) ++threads;
    }
    return threads;
  };
  const Deadline deadline = Deadline::after(kPatience);  // they may have just begun
  while (for_errands() < limits::kErrandThreads && !deadline.passed()) std::this_thread::yield();
  EXPECT_EQ(for_errands(), limits::kErrandThreads);
}

/// What a process in a Landlock domain may open is seen by what it says of its log: its supervisor,
/// which is in none, follows a link that leads out of the log's directory.
TEST_P(ConfinedProgramsTest, HandlerFollowsNoLinkOutOfItsFiles) {
  if (!has_landlock()) GTEST_SKIP() << "the kernel has no Landlock";
  std::filesystem::create_directory(path("logs"));
  std::filesystem::create_directory(path("others"));
  start_handler(server_.address(), {"--log-file", path("logs/log")});
  ASSERT_NE(handler_->worker(), 0);
  std::filesystem::rename(path("logs/log"), path("logs/log.1"));
  std::filesystem::create_symlink(path("others/log"), path("logs/log"));

  ASSERT_EQ(::kill(handler_->worker(), SIGHUP), 0);

  const auto said = [&] { return std::string(as_text(read_file(path("logs/log.1")))); };
  const Deadline deadline = Deadline::after(kPatience);
  while (!said().contains("still in the old log") && !deadline.passed()) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(said().contains("still in the old log: permission")) << said();
  EXPECT_FALSE(std::filesystem::exists(path("others/log")));
}

TEST_P(ConfinedProgramsTest, ProgramsCanBeDebugged) {
  start_handler(server_.address(), {"--no-sandbox"});
  EXPECT_EQ(status_of("/proc/" + std::to_string(handler_->pid()))["Seccomp"],
            GetParam() == LoopKind::kEpoll ? "2" : "0")
      << "only the test's own filter";
}

}  // namespace
}  // namespace thaw::test
