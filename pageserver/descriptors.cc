#include "pageserver/descriptors.h"

#include <algorithm>

#include "pageserver/limits.h"

namespace thaw {

DescriptorShares share_descriptors(std::size_t limit, std::size_t wanted) {
  const std::size_t rest = limit - std::min(limit / 2, limits::kOwnDescriptors);
  const std::size_t peers = rest / 2;
  DescriptorShares shares{};
  shares.strangers = std::clamp<std::size_t>(peers / 4, 1, limits::kMostStrangers);
  shares.connections =
      std::clamp<std::size_t>(peers - std::min(peers, shares.strangers), 1, wanted);
  shares.tables = rest - std::min(rest, shares.connections + shares.strangers);
  return shares;
}

}  // namespace thaw
