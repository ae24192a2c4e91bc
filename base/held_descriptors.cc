#include "base/held_descriptors.h"

#include <array>
#include <cerrno>

#include <sys/socket.h>

#include "base/limits.h"
#include "base/passed_descriptors.h"

namespace thaw {

Result<std::vector<UniqueFd>> look_at_held(const UniqueFd& held) {
  char mark = 0;
  iovec vector{&mark, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * limits::kMaxDescriptorsPerMessage)>
      control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(held.get(), &message, MSG_PEEK | MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return fail_errno("recvmsg");
  std::vector<UniqueFd> seen = take_descriptors(message);
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return fail(ErrorCode::kNoDescriptors, "not all held descriptors can be looked at");
  }
  return seen;
}

}  // namespace thaw
