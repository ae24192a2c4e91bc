#include "pageserver/strangers.h"

#include <algorithm>
#include <map>
#include <vector>

namespace thaw {

namespace {

/// What the stage of each counts.
std::vector<StrangerStage> ranks(std::span<const Stranger> strangers, const StrangerSlots& slots) {
  std::vector<StrangerStage> ranks(strangers.size());
  std::map<std::string_view, std::size_t> kept_of;
  std::size_t kept = 0;
  for (std::size_t i = strangers.size(); i-- > 0;) {
    ranks[i] = strangers[i].stage;
    if (ranks[i] != StrangerStage::kShown) continue;
    std::size_t& of_identity = kept_of[strangers[i].identity];
    if (of_identity == slots.of_identity || kept + slots.for_newcomers >= slots.all) {
      ranks[i] = StrangerStage::kSpoke;
    } else {
      ++of_identity;
      ++kept;
    }
  }
  return ranks;
}

}  // namespace

std::optional<std::size_t> stranger_to_leave(std::span<const Stranger> strangers,
                                             std::string_view network, const StrangerSlots& slots) {
  const auto beside = std::ranges::count(strangers, network, &Stranger::network);
  const bool share_is_full =
      !network.empty() && static_cast<std::size_t>(beside) >= slots.of_network;
  if (!share_is_full && strangers.size() < slots.all) return std::nullopt;
  const std::vector<StrangerStage> rank = ranks(strangers, slots);
  std::optional<std::size_t> leaves;
  for (std::size_t i = 0; i < strangers.size(); ++i) {
    if (share_is_full && strangers[i].network != network) continue;
    if (!leaves || rank[i] < rank[*leaves]) leaves = i;
  }
  return leaves;
}

}  // namespace thaw
