#include "faulthandler/address_space.h"

#include <algorithm>

#include "base/held_descriptors.h"
#include "base/userfaultfd.h"

namespace thaw {

namespace {

/// An address where no guest memory is: below what the kernel maps where it may choose.
constexpr HostAddress kElsewhere{1u << 20};

}  // namespace

bool has_address_space(const UniqueFd& userfaultfd) {
  return userfaultfd.valid() && check_userfaultfd(userfaultfd) &&
         has_process(userfaultfd, kElsewhere);
}

bool any_has_address_space(const UniqueFd& held) {
  if (!held.valid()) return false;
  const auto userfaultfds = look_at_held(held);
  return !userfaultfds || std::ranges::any_of(*userfaultfds, has_address_space);
}

}  // namespace thaw
