#include "base/passed_descriptors.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <sys/socket.h>

#include "base/limits.h"
#include "base/unix_address.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83  // include/uapi/asm-generic/socket.h, Linux 6.16
#endif

namespace thaw {

bool refuse_descriptors(const UniqueFd& socket) {
  const int off = 0;
  return ::setsockopt(socket.get(), SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off)) == 0;
}

bool can_refuse_descriptors() {
  const auto socket = create_unix_socket();
  return socket && refuse_descriptors(*socket);
}

namespace {

std::vector<UniqueFd> take_descriptors(msghdr& message) {
  std::vector<UniqueFd> taken;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      taken.emplace_back(fd);
    }
  }
  return taken;
}

}  // namespace

Result<std::optional<Received>> receive_message(const UniqueFd& socket, MutableByteSpan to,
                                                int flags) {
  iovec vector{to.data(), to.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * limits::kMaxDescriptorsPerMessage)>
      control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(socket.get(), &message, flags | MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::optional<Received>();
  if (n < 0) return fail_errno("recvmsg");

  Received received;
  received.bytes = static_cast<std::size_t>(n);
  received.descriptors = take_descriptors(message);
  received.lost_descriptors = (message.msg_flags & MSG_CTRUNC) != 0;
  return std::optional(std::move(received));
}

}  // namespace thaw
