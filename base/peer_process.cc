#include <cerrno>
#include <charconv>
#include <csignal>
#include <ctime>
#include <sstream>

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "base/socket.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // include/uapi/asm-generic/socket.h, Linux 6.5
#endif

namespace thaw {

namespace {

constexpr std::size_t kMostProcessBytes = 8192;

/// SO_PEERPIDFD, not valid where this kernel has none.
Result<UniqueFd> peer_pidfd(const UniqueFd& socket) {
  int fd = -1;
  socklen_t length = sizeof(fd);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERPIDFD, &fd, &length) == 0) return UniqueFd(fd);
  if (errno == ENOPROTOOPT) return UniqueFd();
  return fail_errno("SO_PEERPIDFD");
}

Result<ucred> peer_credentials(const UniqueFd& socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0) {
    return credentials;
  }
  return fail_errno("SO_PEERCRED");
}

Result<UniqueFd> open_pidfd(pid_t pid) {
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid()) return fail_errno(fmt::format("pidfd_open of process {}", pid));
  return pidfd;
}

/// proc(5): the 22nd word of /proc/PID/stat, in clock ticks since the boot. Rounded down.
std::optional<BootTime> begin_of(const std::string& stat) {
  const std::size_t name_end = stat.rfind(')');
  if (name_end == stat.npos) return std::nullopt;
  std::istringstream words(stat.substr(name_end + 1));
  std::string word;
  for (int number = 3; number <= 22; ++number) words >> word;
  std::uint64_t ticks = 0;
  const auto read = std::from_chars(word.data(), word.data() + word.size(), ticks);
  if (!words || read.ec != std::errc()) return std::nullopt;
  const auto per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  return BootTime(std::chrono::nanoseconds(ticks * (1'000'000'000 / per_second)));
}

/// The effective user of /proc/PID/status: "Uid:", then the real one before it.
std::optional<uid_t> user_of(const std::string& status) {
  const std::size_t line = status.find("\nUid:\t");
  if (line == status.npos) return std::nullopt;
  std::istringstream words(status.substr(line + 6));
  uid_t real = 0;
  uid_t effective = 0;
  if (!(words >> real >> effective)) return std::nullopt;
  return effective;
}

}  // namespace

Result<PeerProcess> peer_process(const UniqueFd& socket, BootTime seen) {
  const ucred credentials = TRY(peer_credentials(socket));
  PeerProcess peer{.pid = credentials.pid,
                   .pidfd = TRY(peer_pidfd(socket)),
                   .user = credentials.uid,
                   .found_by = PeerFoundBy::kSocket};
  if (peer.pidfd.valid()) return peer;
  peer.found_by = PeerFoundBy::kNumber;
  if (peer.pid != 0) peer.pidfd = TRY(pidfd_by_number(peer.pid, peer.user, seen));
  return peer;
}

Result<UniqueFd> pidfd_by_number(pid_t pid, uid_t user, BootTime seen) {
  UniqueFd pidfd = TRY(open_pidfd(pid));
  const std::string process = fmt::format("/proc/{}", pid);
  const auto stat = read_text_file(process + "/stat", kMostProcessBytes);
  const auto status = read_text_file(process + "/status", kMostProcessBytes);
  // Until here the number was this process's: it still runs.
  if (wait_for_exit(pidfd, Deadline::after(Nanoseconds(0)))) {
    return fail(ErrorCode::kNotFound, "process {} exited after it had connected", pid);
  }
  const auto begun = stat ? begin_of(*stat) : std::nullopt;
  const auto runs_as = status ? user_of(*status) : std::nullopt;
  if (begun && runs_as && *begun <= seen && *runs_as == user) return pidfd;
  return fail(ErrorCode::kPermission, "process {} is another than the one that connected", pid);
}

BootTime boot_time() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::seconds(now.tv_sec) + Nanoseconds(now.tv_nsec);
}

bool is_own_or_root(uid_t user) { return user == 0 || user == ::geteuid(); }

Result<uid_t> peer_user(const UniqueFd& socket) { return TRY(peer_credentials(socket)).uid; }

bool names_peers_everywhere(const UniqueFd& socket) {
  const auto pidfd = peer_pidfd(socket);
  return !pidfd || pidfd->valid();
}

Result<UniqueFd> own_pidfd() { return open_pidfd(::getpid()); }

bool is_pidfd_of_unseen_process(const UniqueFd& descriptor) {
  const auto info = read_text_file(fmt::format("/proc/self/fdinfo/{}", descriptor.get()), 4096);
  return info && info->find("\nPid:\t0\n") != std::string::npos;
}

Result<void> kill_process(const UniqueFd& pidfd) {
  if (::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0) == 0) return {};
  if (errno == ESRCH) return {};
  if (errno != EINVAL) return fail_errno("pidfd_send_signal");
  return fail(ErrorCode::kPermission,
              "the process is in a PID namespace from outside of ours, and cannot be killed here");
}

Result<void> wait_for_exit(const UniqueFd& pidfd, Deadline deadline) {
  while (true) {
    pollfd request{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
    if (::poll(&request, 1, deadline.milliseconds_left()) > 0) return {};
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "the process did not exit");
  }
}

}  // namespace thaw
