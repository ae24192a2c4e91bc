#include "pageserver/quota.h"

#include <algorithm>

#include "pageserver/limits.h"

namespace thaw {

std::uint64_t working_set_share(std::uint64_t quota_bytes, std::uint64_t pushed_bytes) {
  if (quota_bytes == 0) return std::max(pushed_bytes, limits::kLeastWorkingSetShare);
  const std::uint64_t left = quota_bytes - std::min(quota_bytes, pushed_bytes);
  return std::min(quota_bytes / limits::kWorkingSetPart, left);
}

}  // namespace thaw
