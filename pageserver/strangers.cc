#include "pageserver/strangers.h"

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include <fmt/format.h>

namespace thaw {

namespace {

constexpr std::size_t kIpv4Bytes = 4;
constexpr std::size_t kIpv6Bytes = 16;
constexpr std::size_t kIpv6NetworkBytes = 8;

/// Where an IPv4 address stands in an IPv6 address that is ::ffff:a.b.c.d.
constexpr std::array kMappedPrefix = [] {
  std::array<std::byte, kIpv6Bytes - kIpv4Bytes> prefix{};
  prefix[10] = prefix[11] = std::byte{0xff};
  return prefix;
}();

bool is_loopback(ByteSpan ipv6) {
  const auto is_zero = [](std::byte byte) { return byte == std::byte{0}; };
  return std::ranges::all_of(ipv6.first(kIpv6Bytes - 1), is_zero) && ipv6.back() == std::byte{1};
}

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

std::string peer_network(ByteSpan address) {
  if (address.size() == kIpv6Bytes &&
      std::ranges::equal(address.first(kMappedPrefix.size()), kMappedPrefix)) {
    address = address.subspan(kMappedPrefix.size());
  }
  const auto part = [&](std::size_t i) { return std::to_integer<unsigned>(address[i]); };
  if (address.size() == kIpv4Bytes) {
    if (part(0) == 127) return {};
    return fmt::format("{}.{}.{}.{}", part(0), part(1), part(2), part(3));
  }
  if (address.size() != kIpv6Bytes || is_loopback(address)) return {};
  std::string network;
  for (std::size_t i = 0; i < kIpv6NetworkBytes; i += 2) {
    network += fmt::format("{:x}:", part(i) << 8 | part(i + 1));
  }
  return network + ":/64";
}

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
