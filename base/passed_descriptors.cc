#include "base/passed_descriptors.h"

#include <cstring>

#include <sys/socket.h>

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

}  // namespace thaw
