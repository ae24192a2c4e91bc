#pragma once

#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// Copies of what hold_descriptors() (base/socket.h) has put into this socket, which stays there:
/// of limits::kMaxDescriptorsPerMessage at most.
Result<std::vector<UniqueFd>> look_at_held(const UniqueFd& held);

}  // namespace thaw
