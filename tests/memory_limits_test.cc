// How much memory is left to a process: its cgroups, the file system behind its memory, the host;
// and how a process has ended.

#include "base/memory_limits.h"

#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/host.h"
#include "base/memory_file.h"
#include "base/process_exit.h"
#include "base/vcpu_activity.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr pid_t kPid = 7;
constexpr ByteCount kGibibyte{1u << 30};

/// A /proc and the mounts of both versions, as a test writes them.
class MemoryLimitsTest : public testing::Test {
 protected:
  MemoryLimitsTest() {
    std::filesystem::create_directories(root_.path("proc/self"));
    std::filesystem::create_directories(root_.path("proc/7"));
    std::filesystem::create_directories(root_.path("v1/a/b"));
    std::filesystem::create_directories(root_.path("v2/a/b"));
    write("proc/self/mountinfo",
          "25 1 0:22 / /proc rw - proc proc rw\n"
          "30 25 0:27 / " +
              root_.path("cpu") +
              " rw shared:9 - cgroup cgroup rw,cpu\n"
              "31 25 0:28 / " +
              root_.path("v1") +
              " rw shared:10 master:2 - cgroup cgroup rw,memory\n"
              "32 25 0:29 / " +
              root_.path("v2") + " rw - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  void write(const std::string& file, const std::string& text) const {
    std::ofstream(root_.path(file)) << text;
  }
  std::vector<MemoryLimit> limits() const {
    return MemoryLimits::of_process(kPid, nullptr, root_.path("proc")).read();
  }
  static MemoryLimit cgroup(std::uint64_t most, std::uint64_t free) {
    return {MemoryLimit::Of::kCgroup, {most}, {free}};
  }

  const ScratchDirectory root_;
};

TEST_F(MemoryLimitsTest, EachCgroupOfVersionTwoThatHasALimitIsOne) {
  write("proc/7/cgroup", "0::/a/b\n");
  EXPECT_TRUE(limits().empty());
  write("v2/a/b/memory.max", "max\n");
  write("v2/a/b/memory.high", "1000\n");
  write("v2/a/b/memory.current", "200\n");
  write("v2/a/memory.max", "3000\n");
  write("v2/a/memory.high", "max\n");
  write("v2/a/memory.current", "2900\n");
  write("v2/a/memory.stat", "anon 5\ninactive_file 700\nactive_file 200\nfile 900\n");
  EXPECT_EQ(limits(), (std::vector{cgroup(1000, 800), cgroup(3000, 100 + 700 + 100)}));
}

TEST_F(MemoryLimitsTest, CgroupsOfVersionOneCountWhereTheControllerIsThere) {
  write("proc/7/cgroup", "4:cpu,cpuacct:/x\n3:memory:/a/b\n0::/elsewhere\n");
  write("v1/a/b/memory.limit_in_bytes", "1000\n");
  write("v1/a/b/memory.usage_in_bytes", "900\n");
  write("v1/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 20\n");
  write("v1/a/memory.limit_in_bytes", "9223372036854771712\n");
  write("v1/a/memory.usage_in_bytes", "5000\n");
  EXPECT_EQ(limits(), std::vector{cgroup(1000, 100 + 300 + 10)});
}

TEST_F(MemoryLimitsTest, WhatCannotBeSeenOrIsNonsenseIsNoLimit) {
  for (const std::string cgroup : {"", "nonsense", "0::/../other\n", "0::/gone\n", "0::\n"}) {
    write("proc/7/cgroup", cgroup);
    EXPECT_TRUE(limits().empty()) << cgroup;
  }
  write("proc/7/cgroup", "0::/a/b\n");
  write("v2/a/b/memory.current", "200\n");
  for (const std::string text : {"", "nonsense", "-1", "99999999999999999999999"}) {
    write("v2/a/b/memory.max", text);
    EXPECT_TRUE(limits().empty()) << text;
  }
}

TEST_F(MemoryLimitsTest, PartOfAHierarchyThatIsMountedIsFoundByItsRoot) {
  write("proc/self/mountinfo",
        "32 25 0:29 /machine/c1 " + root_.path("v2") + " rw - cgroup2 cgroup2 rw\n");
  write("v2/a/memory.max", "1000\n");
  write("v2/a/memory.current", "1200\n");
  write("proc/7/cgroup", "0::/machine/c1/a\n");
  EXPECT_EQ(limits(), std::vector{cgroup(1000, 0)});
  write("proc/7/cgroup", "0::/machine/c2/a\n");
  EXPECT_TRUE(limits().empty());
}

TEST_F(MemoryLimitsTest, HostIsWhatItSaysIsAvailable) {
  write("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 3 kB\nMemAvailable:   400 kB\n");
  EXPECT_EQ(limits(),
            (std::vector<MemoryLimit>{{MemoryLimit::Of::kHost, {1000 << 10}, {400 << 10}}}));
}

TEST(MemoryLimits, ThisProcessHasSome) {
  EXPECT_GT(usable_memory(), ByteCount{0});
  EXPECT_LE(usable_memory(), physical_memory());
  const auto all = MemoryLimits::of_process(0, nullptr).read();
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all.back().of, MemoryLimit::Of::kHost);
  EXPECT_LT(all.back().free, all.back().most);
}

TEST(MemoryLimits, FileSystemBehindTheMemoryIsFoundThroughItsMapping) {
  const ScratchDirectory directory;
  if (::mount("tmpfs", directory.path("").c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "needs the right to mount";
  }
  const auto map = [](const UniqueFd& file) {
    EXPECT_EQ(::ftruncate(file.get(), 1 << 20), 0);
    void* const at = ::mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    EXPECT_NE(at, MAP_FAILED);
    return HostAddress{reinterpret_cast<std::uintptr_t>(at)};
  };
  const auto found_at = [](HostAddress at) {
    return std::make_shared<const BackingFile>(backing_file_of(0, std::array{at}));
  };
  const auto file_limit =
      [](const std::shared_ptr<const BackingFile>& file) -> std::optional<MemoryLimit> {
    for (const MemoryLimit& limit : MemoryLimits::of_process(0, file).read()) {
      if (limit.of == MemoryLimit::Of::kFileSystem) return limit;
    }
    return std::nullopt;
  };
  const UniqueFd named(::open(directory.path("m").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const auto file = found_at(map(named));
  EXPECT_TRUE(file->is_there);
  EXPECT_EQ(file_limit(file).value().free, ByteCount{1 << 20});
  const std::array<std::byte, 4096> page{};
  ASSERT_EQ(::pwrite(named.get(), page.data(), page.size(), 0), 4096);
  EXPECT_EQ(file_limit(file).value().free, ByteCount{(1 << 20) - 4096});
  // By its descriptor, when its name has gone or leads elsewhere.
  std::filesystem::remove(directory.path("m"));
  EXPECT_EQ(file_limit(found_at(map(named))).value().free, ByteCount{(1 << 20) - 4096});
  std::filesystem::create_symlink("/dev/null", directory.path("m"));
  EXPECT_EQ(file_limit(found_at(map(named))).value().free, ByteCount{(1 << 20) - 4096});

  const UniqueFd memfd = create_memory_file("m", {1 << 20}).value();
  const auto unlimited = found_at(map(memfd));
  EXPECT_TRUE(unlimited->is_there);
  EXPECT_FALSE(file_limit(unlimited).has_value());
  void* const anonymous = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_FALSE(found_at({reinterpret_cast<std::uintptr_t>(anonymous)})->is_there);
  ::umount2(directory.path("").c_str(), MNT_DETACH);
}

/// How a process that ends as `end` does is seen, before and after its parent has waited for it.
template <typename End>
std::array<std::optional<ExitStatus>, 2> seen_exit(End end) {
  const pid_t child = ::fork();
  if (child == 0) {
    end();
    ::_exit(0);
  }
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  pollfd ended{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&ended, 1, 60'000), 1);
  const auto before = exit_status(pidfd, child);
  ::waitpid(child, nullptr, 0);
  return {before, exit_status(pidfd, child)};
}

TEST(ProcessExit, IsSeenOfAProcessThatIsNoChild) {
  const auto [killed, reaped] = seen_exit([] { ::raise(SIGKILL); });
  EXPECT_EQ(killed, (ExitStatus{.signal = SIGKILL}));
  const ExitStatus by_signal{.signal = SIGKILL};
  EXPECT_EQ(reaped.value_or(by_signal), by_signal) << "unknown before Linux 6.15";
  const auto [ended, waited] = seen_exit([] { ::_exit(149); });
  EXPECT_EQ(ended, (ExitStatus{.code = 149}));
  EXPECT_EQ(waited.value_or(ExitStatus{.code = 149}), (ExitStatus{.code = 149}));
  EXPECT_EQ(seen_exit([] {})[0], ExitStatus{});
}

TEST(VcpuActivity, VcpuInKvmRunRunsAndOneThatWasNeverEnteredDoesNot) {
  const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.valid()) GTEST_SKIP() << "needs /dev/kvm";
  const UniqueFd vm(::ioctl(kvm.get(), KVM_CREATE_VM, 0));
  ASSERT_EQ(::ioctl(vm.get(), KVM_CREATE_IRQCHIP, 0), 0);
  const UniqueFd first(::ioctl(vm.get(), KVM_CREATE_VCPU, 0));
  // It waits in the kernel to be started by the first one.
  const UniqueFd second(::ioctl(vm.get(), KVM_CREATE_VCPU, 1));
  ASSERT_TRUE(first.valid() && second.valid());
  EXPECT_EQ(vcpu_activity(::getpid()), VcpuActivity::kNotYet);

  struct sigaction nothing{};
  nothing.sa_handler = [](int) {};
  ::sigaction(SIGUSR1, &nothing, nullptr);
  std::atomic<bool> ended = false;
  std::jthread vcpu([&] {
    ::ioctl(second.get(), KVM_RUN, 0);
    ended = true;
  });
  const Deadline deadline = Deadline::after(std::chrono::seconds(60));
  while (vcpu_activity(::getpid()) != VcpuActivity::kHasRun && !deadline.passed()) {
    std::this_thread::yield();
  }
  EXPECT_EQ(vcpu_activity(::getpid()), VcpuActivity::kHasRun);
  while (!ended) ::pthread_kill(vcpu.native_handle(), SIGUSR1);
}

TEST(VcpuActivity, ProcessWithoutVcpusTellsNothing) {
  EXPECT_EQ(vcpu_activity(::getpid()), VcpuActivity::kUnknown);
  EXPECT_EQ(vcpu_activity(-1), VcpuActivity::kUnknown);
}

}  // namespace
}  // namespace thaw::test
