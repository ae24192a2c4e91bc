#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/new_listener.h"
#include "base/passed_descriptors.h"
#include "base/place.h"
#include "base/socket.h"
#include "base/unix_address.h"

namespace thaw {

Result<UniqueFd> listen_unix(const std::string& path, std::optional<FileOwner> owner) {
  NewListener listener = TRY(NewListener::create(path, TRY(find_place(path)), owner));
  TRY(listener.publish());
  return std::move(listener).take();
}

namespace {

Result<UniqueFd> connect_to(UniqueFd socket, const std::string& path, Deadline deadline) {
  const UnixAddress address = TRY(UnixAddress::of(path));
  while (address.with(::connect, socket) != 0) {
    // EAGAIN: the listener's backlog is full, which poll cannot wait for.
    if (errno != EAGAIN && errno != EINTR) return fail_errno(fmt::format("connect to {}", path));
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "connect to {}", path);
    ::poll(nullptr, 0, 1);
  }
  return socket;
}

}  // namespace

Result<UniqueFd> connect_unix(const std::string& path, Deadline deadline) {
  return connect_to(TRY(create_unix_socket()), path, deadline);
}

Result<UniqueFd> connect_unix_for_bytes(const std::string& path, Deadline deadline) {
  UniqueFd socket = TRY(create_unix_socket());
  static_cast<void>(refuse_descriptors(socket));
  return connect_to(std::move(socket), path, deadline);
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
  return receive_message(socket, to, 0);
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

}  // namespace thaw
