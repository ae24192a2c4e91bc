#include "base/process_exit.h"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

namespace thaw {

namespace {

/// include/uapi/linux/pidfd.h of Linux 6.15, which Debian 12's headers do not have: the first
/// version of struct pidfd_info.
struct PidfdInfo {
  std::uint64_t mask;
  std::uint64_t cgroup;
  std::uint32_t ids[11];
  std::int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr std::uint64_t kInfoExit = 1u << 3;
constexpr unsigned long kGetInfo = _IOWR(0xFF, 11, PidfdInfo);

constexpr std::size_t kMostProcessStatBytes = 4096;

ExitStatus from_wait_status(int status) {
  if (WIFSIGNALED(status)) return {.signal = WTERMSIG(status)};
  return {.code = WEXITSTATUS(status)};
}

std::optional<ExitStatus> from_pidfd(const UniqueFd& pidfd) {
  PidfdInfo info{.mask = kInfoExit, .cgroup = 0, .ids = {}, .exit_code = 0};
  // SAFETY: the kernel writes at most as many bytes as the request's number says.
  if (::ioctl(pidfd.get(), kGetInfo, &info) != 0 || (info.mask & kInfoExit) == 0) return {};
  return from_wait_status(info.exit_code);
}

/// Of a process that its parent has not waited for.
std::optional<ExitStatus> from_proc(const UniqueFd& pidfd, pid_t pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  const auto text = read_text_file(process + "/stat", kMostProcessStatBytes);
  struct stat owner{};
  const bool is_ours =
      ::stat(process.c_str(), &owner) == 0 && (::geteuid() == 0 || ::geteuid() == owner.st_uid);
  // Until here the number was this process's: it is still there, and may refuse our signals.
  const bool gone =
      ::syscall(SYS_pidfd_send_signal, pidfd.get(), 0, nullptr, 0) != 0 && errno != EPERM;
  if (!text || gone) return {};
  const std::size_t name_end = text->rfind(')');
  const std::size_t last = text->find_last_of(' ');
  if (name_end == text->npos || text->compare(name_end, 3, ") Z") != 0) return {};
  const int status = std::atoi(text->c_str() + last + 1);
  // Those who may not know it are told 0.
  if (status == 0 && !is_ours) return {};
  return from_wait_status(status);
}

}  // namespace

std::optional<ExitStatus> exit_status(const UniqueFd& pidfd, pid_t pid) {
  if (const auto status = from_pidfd(pidfd)) return status;
  if (pid > 0) {
    if (const auto status = from_proc(pidfd, pid)) return status;
  }
  return from_pidfd(pidfd);  // whose parent has waited for it meanwhile
}

}  // namespace thaw
