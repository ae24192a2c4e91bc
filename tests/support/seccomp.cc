#include "tests/support/seccomp.h"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"

namespace thaw::test {

namespace {

sock_filter statement(int code, std::uint32_t value) {
  return {static_cast<std::uint16_t>(code), 0, 0, value};
}

void install(std::vector<sock_filter> filter) {
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0);
}

/// Looks at numbers only and not at the architecture they are of: it stands in for old kernels and
/// other hosts, and holds nobody back.
void refuse(std::initializer_list<long> system_calls, int error_number) {
  std::vector<sock_filter> filter{statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const long number : system_calls) {
    filter.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<std::uint32_t>(number)});
    filter.push_back(
        statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error_number)));
  }
  filter.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  install(std::move(filter));
}

}  // namespace

void forbid_io_uring() {
  refuse({SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register}, EPERM);
}

void forbid_capset() { refuse({SYS_capset}, EPERM); }

void hide_epoll_pwait2() { refuse({SYS_epoll_pwait2}, ENOSYS); }

void hide_peer_pidfd() {
  constexpr std::uint32_t kPeerPidfd = 77;  // SO_PEERPIDFD
  const auto no_option = SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(ENOPROTOOPT);
  install({statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
           {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, static_cast<std::uint32_t>(SYS_getsockopt)},
           statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
           {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, kPeerPidfd},
           statement(BPF_RET | BPF_K, no_option),
           statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)});
}

bool io_uring_is_allowed() {
  // No ring has no entries: where it is allowed, another errno says so.
  return ::syscall(SYS_io_uring_setup, 0, nullptr) < 0 && errno != EPERM && errno != ENOSYS;
}

}  // namespace thaw::test
