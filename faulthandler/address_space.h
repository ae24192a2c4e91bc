#pragma once

#include "base/unique_fd.h"

namespace thaw {

/// Whether a process still has the memory that a userfaultfd is of: the VMM, or another one for
/// which the VMM has handed it over. Its missing pages would read as zeros if the last descriptor
/// went. What is no userfaultfd is of no memory. Asks the kernel, which takes as long as such a
/// process likes.
bool has_address_space(const UniqueFd& userfaultfd);
/// Whether that holds for one of those that hold_descriptors() has put into this socket, or cannot
/// be known at present. False when it is not valid.
bool any_has_address_space(const UniqueFd& held);

}  // namespace thaw
