#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/listen_path.h"
#include "base/socket.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // include/uapi/asm-generic/socket.h, Linux 6.5
#endif

namespace thaw {

namespace {

/// A socket's path as bind and connect take it: at most limits::kMaxSocketPath bytes. A longer one
/// is reached through its directory, which is kept open for that.
class UnixAddress {
 public:
  static Result<UnixAddress> of(const std::string& path) {
    if (path.empty()) return fail(ErrorCode::kInvalidArgument, "a socket's path is empty");
    if (path.find('\0') != std::string::npos) {
      return fail(ErrorCode::kInvalidArgument, "a socket's path has a byte 0 in it");
    }
    UnixAddress address;
    if (path.size() <= limits::kMaxSocketPath) {
      path.copy(address.address_.sun_path, path.size());
      return address;
    }
    const std::size_t slash = path.rfind('/');
    if (slash != std::string::npos) {
      const std::string directory = path.substr(0, slash + 1);
      address.directory_ = UniqueFd(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (!address.directory_.valid()) return fail_errno(fmt::format("open {}", directory));
    }
    const std::string shorter =
        fmt::format("/proc/self/fd/{}/{}", address.directory_.get(), path.substr(slash + 1));
    if (slash == std::string::npos || shorter.size() > limits::kMaxSocketPath) {
      return fail(ErrorCode::kInvalidArgument, "the name of the socket {} is too long", path);
    }
    shorter.copy(address.address_.sun_path, shorter.size());
    return address;
  }

  /// connect(2) or bind(2) with it.
  template <typename Call>
  int with(Call call, const UniqueFd& socket) const {
    // SAFETY: bind and connect take every family's address as sockaddr.
    return call(socket.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof(address_));
  }

 private:
  UnixAddress() { address_.sun_family = AF_UNIX; }

  UniqueFd directory_;
  sockaddr_un address_{};
};

Result<UniqueFd> create_unix_socket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail_errno("socket");
  return socket;
}

/// What is at a path where a socket is to be.
enum class Place { kFree, kStaleSocket };

/// kAlreadyExists when it is taken.
Result<Place> look_at(const std::string& path, const UnixAddress& address) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return Place::kFree;
    return fail_errno(path);
  }
  if (!S_ISSOCK(status.st_mode)) {
    return fail(ErrorCode::kAlreadyExists, "{} exists and is no socket", path);
  }
  const UniqueFd probe = TRY(create_unix_socket());
  if (address.with(::connect, probe) == 0 || errno != ECONNREFUSED) {
    return fail(ErrorCode::kAlreadyExists, "{} is in use by another process", path);
  }
  return Place::kStaleSocket;
}

}  // namespace

Result<void> check_listen_path(const std::string& path) {
  const UnixAddress address = TRY(UnixAddress::of(path));
  if (TRY(look_at(path, address)) == Place::kStaleSocket) return {};
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  struct stat status{};
  if (::stat(directory.c_str(), &status) != 0) return fail_errno(directory);
  return {};
}

Result<UniqueFd> listen_unix(const std::string& path, std::optional<FileOwner> owner) {
  const UnixAddress address = TRY(UnixAddress::of(path));
  if (TRY(look_at(path, address)) == Place::kStaleSocket && ::unlink(path.c_str()) != 0 &&
      errno != ENOENT) {
    return fail_errno(path);
  }
  UniqueFd socket = TRY(create_unix_socket());
  // The socket file gets the descriptor's mode when it is bound, so there is no moment at which
  // others may connect.
  if (::fchmod(socket.get(), 0600) != 0) return fail_errno("fchmod of a socket");
  if (address.with(::bind, socket) != 0) {
    return fail_errno(fmt::format("bind {}", path));
  }
  if ((owner && ::lchown(path.c_str(), owner->uid, owner->gid) != 0) ||
      ::listen(socket.get(), SOMAXCONN) != 0) {
    const int error_number = errno;
    ::unlink(path.c_str());
    return fail_errno(fmt::format("listen on {}", path), error_number);
  }
  return socket;
}

Result<UniqueFd> connect_unix(const std::string& path, Deadline deadline) {
  const UnixAddress address = TRY(UnixAddress::of(path));
  UniqueFd socket = TRY(create_unix_socket());
  while (address.with(::connect, socket) != 0) {
    // EAGAIN: the listener's backlog is full, which poll cannot wait for.
    if (errno != EAGAIN && errno != EINTR) return fail_errno(fmt::format("connect to {}", path));
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "connect to {}", path);
    ::poll(nullptr, 0, 1);
  }
  return socket;
}

Result<UniqueFd> accept_connection(const UniqueFd& listener, Deadline deadline) {
  while (true) {
    UniqueFd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.valid()) return socket;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) return fail_errno("accept");
    pollfd request{.fd = listener.get(), .events = POLLIN, .revents = 0};
    ::poll(&request, 1, deadline.milliseconds_left());
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "nobody connected");
  }
}

Result<void> send_with_descriptors(const UniqueFd& socket, ByteSpan bytes,
                                   std::span<const int> descriptors, Deadline deadline) {
  CHECK(!bytes.empty() && descriptors.size() <= limits::kMaxDescriptorsPerMessage);
  // SAFETY: sendmsg only reads through iov_base.
  iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * limits::kMaxDescriptorsPerMessage)>
      control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  while (true) {
    const ssize_t n = ::sendmsg(socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    // The descriptors went with the first byte; the rest is plain data.
    if (n >= 0) return send_all(socket, bytes.subspan(static_cast<std::size_t>(n)), deadline);
    if (errno != EAGAIN && errno != EINTR) return fail_errno("sendmsg");
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "the peer does not read");
    pollfd request{.fd = socket.get(), .events = POLLOUT, .revents = 0};
    ::poll(&request, 1, deadline.milliseconds_left());
  }
}

Result<std::optional<Received>> receive_with_descriptors(const UniqueFd& socket,
                                                         MutableByteSpan to) {
  iovec vector{to.data(), to.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * limits::kMaxDescriptorsPerMessage)>
      control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::optional<Received>();
  if (n < 0) return fail_errno("recvmsg");

  Received received;
  received.bytes = static_cast<std::size_t>(n);
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      received.descriptors.emplace_back(fd);
    }
  }
  received.lost_descriptors = (message.msg_flags & MSG_CTRUNC) != 0;
  return std::optional(std::move(received));
}

Result<std::optional<std::size_t>> peek(const UniqueFd& socket, MutableByteSpan to) {
  const ssize_t n = ::recv(socket.get(), to.data(), to.size(), MSG_PEEK | MSG_DONTWAIT);
  if (n >= 0) return std::optional(static_cast<std::size_t>(n));
  if (errno == EAGAIN || errno == EINTR) return std::optional<std::size_t>();
  return fail_errno("receive");
}

Result<MessagePair> create_message_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
    return fail_errno("socketpair");
  }
  return MessagePair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<UniqueFd> hold_descriptors(std::span<const UniqueFd> descriptors) {
  MessagePair pair = TRY(create_message_pair());
  constexpr std::byte kMark{0};
  while (!descriptors.empty()) {
    const std::size_t count = std::min(descriptors.size(), limits::kMaxDescriptorsPerMessage);
    std::vector<int> numbers;
    for (const UniqueFd& descriptor : descriptors.first(count)) numbers.push_back(descriptor.get());
    TRY(send_with_descriptors(pair.theirs, {&kMark, 1}, numbers, Deadline::after(Nanoseconds(0))));
    descriptors = descriptors.subspan(count);
  }
  return std::move(pair.ours);
}

namespace {

/// SO_PEERPIDFD, not valid where this kernel has none.
Result<UniqueFd> peer_pidfd(const UniqueFd& socket) {
  int fd = -1;
  socklen_t length = sizeof(fd);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERPIDFD, &fd, &length) == 0) return UniqueFd(fd);
  if (errno == ENOPROTOOPT) return UniqueFd();
  return fail_errno("SO_PEERPIDFD");
}

Result<UniqueFd> open_pidfd(pid_t pid) {
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid()) return fail_errno(fmt::format("pidfd_open of process {}", pid));
  return pidfd;
}

}  // namespace

Result<PeerProcess> peer_process(const UniqueFd& socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return fail_errno("SO_PEERCRED");
  }
  PeerProcess peer{credentials.pid, TRY(peer_pidfd(socket))};
  if (!peer.pidfd.valid() && peer.pid != 0) peer.pidfd = TRY(open_pidfd(peer.pid));
  return peer;
}

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
