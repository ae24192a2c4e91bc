#include "base/confine.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/unique_fd.h"

namespace thaw {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// What both servers call, with their libraries: RocksDB, liburing, Asio, the resolver and
/// the C library. Of the same kind as a call that was seen, its siblings are here too, since
/// another version of a library may choose them. A kernel or an architecture may lack some.
constexpr const char* kMemoryCalls[] = {
    "brk",    "madvise", "membarrier",  "memfd_create",  "mincore", "mlock",
    "mlock2", "mmap",    "mprotect",    "mremap",        "msync",   "munlock",
    "munmap", "rseq",    "userfaultfd", "get_mempolicy",
};
constexpr const char* kFileCalls[] = {
    "access",      "chmod",           "chown",     "close",
    "close_range", "copy_file_range", "dup",       "dup2",
    "dup3",        "eventfd",         "eventfd2",  "faccessat",
    "faccessat2",  "fadvise64",       "fallocate", "fchmod",
    "fchmodat",    "fchown",          "fchownat",  "fcntl",
    "fdatasync",   "flock",           "fstat",     "fstatfs",
    "fsync",       "ftruncate",       "getcwd",    "getdents",
    "getdents64",  "ioctl",           "lchown",    "link",
    "linkat",      "lseek",           "lstat",     "mkdir",
    "mkdirat",     "newfstatat",      "open",      "openat",
    "pipe",        "pipe2",           "pread64",   "preadv",
    "preadv2",     "pwrite64",        "pwritev",   "pwritev2",
    "read",        "readahead",       "readlink",  "readlinkat",
    "readv",       "rename",          "renameat",  "renameat2",
    "rmdir",       "sendfile",        "stat",      "statfs",
    "statx",       "sync_file_range", "syncfs",    "truncate",
    "umask",       "unlink",          "unlinkat",  "utimensat",
    "write",       "writev",
};
constexpr const char* kSocketCalls[] = {
    "accept",     "accept4", "bind",       "connect",  "getpeername", "getsockname",
    "getsockopt", "listen",  "recvfrom",   "recvmmsg", "recvmsg",     "sendmmsg",
    "sendmsg",    "sendto",  "setsockopt", "shutdown", "socket",      "socketpair",
};
constexpr const char* kWaitingCalls[] = {
    "clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create",      "epoll_create1",
    "epoll_ctl",    "epoll_pwait",   "epoll_pwait2",    "epoll_wait",        "futex",
    "futex_waitv",  "gettimeofday",  "io_uring_enter",  "io_uring_register", "io_uring_setup",
    "nanosleep",    "poll",          "ppoll",           "pselect6",          "restart_syscall",
    "select",       "time",          "timerfd_create",  "timerfd_gettime",   "timerfd_settime",
    "timer_create", "timer_delete",  "timer_settime",
};
constexpr const char* kProcessCalls[] = {
    "arch_prctl",
    "exit",
    "exit_group",
    "get_robust_list",
    "getcpu",
    "getegid",
    "geteuid",
    "getgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getrandom",
    "getrlimit",
    "getrusage",
    "gettid",
    "getuid",
    "kill",
    "pidfd_open",
    "pidfd_send_signal",
    "prctl",
    "prlimit64",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_getscheduler",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "setpriority",
    "sigaltstack",
    "signalfd",
    "signalfd4",
    "sysinfo",
    "tgkill",
    "times",
    "tkill",
    "uname",
    "wait4",
    "waitid",
};

/// What no process here begins with, nor what it begins.
constexpr const char* kDeniedToAll[] = {
    "acct",
    "add_key",
    "bpf",
    "chroot",
    "delete_module",
    "finit_module",
    "fsmount",
    "fsopen",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "mount",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "setns",
    "swapoff",
    "swapon",
    "umount2",
    "unshare",
};

struct ReleaseFilter {
  void operator()(void* filter) const { seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, ReleaseFilter>;

/// What libseccomp returns: 0, or a negative errno.
Result<void> checked(int outcome, const char* what) {
  if (outcome < 0) return fail_errno(std::string("seccomp: ") + what, -outcome);
  return {};
}

/// What becomes of these calls.
Result<void> add_rules(const Filter& filter, std::uint32_t action,
                       std::span<const char* const> names) {
  for (const char* const name : names) {
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR) continue;  // newer than the library
    TRY(checked(seccomp_rule_add(filter.get(), action, number, 0), name));
  }
  return {};
}

/// Threads, and no processes: the flags of clone are looked at. Those of clone3 cannot be, and the
/// C library uses clone where there is none.
Result<void> allow_threads(const Filter& filter) {
  TRY(checked(seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD)),
              "clone"));
  return checked(seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0),
                 "clone3");
}

Result<void> filter_system_calls(SystemCalls left) {
  const bool all = left == SystemCalls::kOfAll;
  const Filter filter(seccomp_init(all ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM)));
  if (filter == nullptr) return fail(ErrorCode::kIo, "seccomp: no filter");
  // Where a filter would slow the CPU down against speculation, it need not: this code is ours.
  TRY(checked(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_SSB, 1), "speculation"));
  TRY(checked(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1), "threads"));
  TRY(checked(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_LOG, 1), "log"));
  TRY(checked(seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2), "order"));
  if (all) {
    TRY(add_rules(filter, SCMP_ACT_ERRNO(EPERM), kDeniedToAll));
    return checked(seccomp_load(filter.get()), "load");
  }
  for (const std::span<const char* const> names :
       {std::span<const char* const>(kMemoryCalls), std::span<const char* const>(kFileCalls),
        std::span<const char* const>(kSocketCalls), std::span<const char* const>(kWaitingCalls),
        std::span<const char* const>(kProcessCalls)}) {
    TRY(add_rules(filter, SCMP_ACT_ALLOW, names));
  }
  TRY(allow_threads(filter));
  return checked(seccomp_load(filter.get()), "load");
}

/// Not THAW_...: those are options. Stands in the environment of a process whose programs inherit
/// the filter for all, and says which one that is. An upgrade must not add the same filter again:
/// the kernel runs each of them.
constexpr const char* kMark = "CONFINED_BY_THAW";

std::string mark_of(std::span<const char* const> denied) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char* const name : denied) {
    for (const char c : std::string_view(name)) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
    hash = (hash ^ 0xff) * 0x100000001b3;
  }
  return fmt::format("{:016x}", hash);
}

Result<void> filter_once(SystemCalls left) {
  if (left != SystemCalls::kOfAll) return filter_system_calls(left);
  const std::string mark = mark_of(kDeniedToAll);
  const char* const inherited = std::getenv(kMark);
  const bool filtered = ::prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2;  // SECCOMP_MODE_FILTER
  if (filtered && inherited != nullptr && mark == inherited) return {};
  TRY(filter_system_calls(left));
  ::setenv(kMark, mark.c_str(), 1);
  return {};
}

unsigned number_of(Capability capability) {
  switch (capability) {
    case Capability::kDacOverride:
      return CAP_DAC_OVERRIDE;
    case Capability::kIpcLock:
      return CAP_IPC_LOCK;
    case Capability::kKill:
      return CAP_KILL;
    case Capability::kSysNice:
      return CAP_SYS_NICE;
    case Capability::kSysPtrace:
      return CAP_SYS_PTRACE;
  }
  std::unreachable();
}

/// core(5): no mapping at all.
Result<void> keep_memory_out_of_core_dumps() {
  const UniqueFd file(::open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC));
  if (!file.valid() || ::write(file.get(), "0", 1) != 1) {
    return fail_errno("/proc/self/coredump_filter");
  }
  return {};
}

}  // namespace

Result<void> keep_capabilities(std::span<const Capability> kept) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) return fail_errno("capget");
  std::array<std::uint32_t, _LINUX_CAPABILITY_U32S_3> mask{};
  for (const Capability capability : kept) {
    const unsigned number = number_of(capability);
    mask[CAP_TO_INDEX(number)] |= CAP_TO_MASK(number);
  }
  bool has_more = false;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    has_more = has_more || ((sets[i].permitted | sets[i].effective) & ~mask[i]) != 0 ||
               sets[i].inheritable != 0;
    sets[i].permitted &= mask[i];
    sets[i].effective &= mask[i];
    sets[i].inheritable = 0;
  }
  // A service manager that leaves no others may have taken this call away, too.
  if (!has_more) return {};
  if (::syscall(SYS_capset, &header, sets.data()) != 0) return fail_errno("capset");
  return {};
}

Result<void> confine(std::span<const Capability> kept, SystemCalls left,
                     const std::optional<FilesLeft>& files) {
  TRY(keep_memory_out_of_core_dumps());
  TRY(keep_capabilities(kept));
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("no_new_privs");
  if (kSanitized) return {};
  if (files) {
    const std::string missing = TRY(leave_files(*files));
    if (!missing.empty()) log_warning("{}", missing);
  }
  TRY(filter_once(left));
  return {};
}

}  // namespace thaw
