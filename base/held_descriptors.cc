#include "base/held_descriptors.h"

#include <cerrno>
#include <cstddef>

#include <sys/socket.h>

#include "base/passed_descriptors.h"

namespace thaw {

Result<std::vector<UniqueFd>> look_at_held(const UniqueFd& held) {
  std::byte mark{};
  auto seen = TRY(receive_message(held, {&mark, 1}, MSG_PEEK));
  if (!seen) return fail_errno("recvmsg", EAGAIN);
  if (seen->lost_descriptors) {
    return fail(ErrorCode::kNoDescriptors, "not all held descriptors can be looked at");
  }
  return std::move(seen->descriptors);
}

}  // namespace thaw
