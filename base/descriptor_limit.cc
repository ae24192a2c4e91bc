#include "base/descriptor_limit.h"

#include <algorithm>

#include <sys/resource.h>

#include "base/check.h"

namespace thaw {

namespace {

/// The kernel's own most, where it is not changed (fs.nr_open).
constexpr rlim_t kMost = 1u << 20;

}  // namespace

std::size_t raise_descriptor_limit() {
  rlimit limit{};
  CHECK(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit raised{.rlim_cur = std::min(limit.rlim_max, kMost), .rlim_max = limit.rlim_max};
  if (raised.rlim_cur > limit.rlim_cur && ::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  return std::min(limit.rlim_cur, kMost);
}

}  // namespace thaw
