#include "base/random.h"

#include <cerrno>

#include <sys/random.h>

namespace thaw {

Result<void> fill_random(MutableByteSpan to) {
  while (!to.empty()) {
    const ssize_t n = ::getrandom(to.data(), to.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("getrandom");
    to = to.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace thaw
