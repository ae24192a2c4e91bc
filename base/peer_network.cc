#include "base/peer_network.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include <fmt/format.h>
#include <netinet/in.h>

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

std::string peer_network(const TcpAddress& address) {
  const auto of = [](const auto& field) {
    return peer_network(std::as_bytes(std::span(&field, 1)));
  };
  if (address.is_unix()) return {};
  // SAFETY: the family says which sockaddr this is.
  if (address.storage.ss_family == AF_INET6) {
    return of(reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_addr);
  }
  return of(reinterpret_cast<const sockaddr_in&>(address.storage).sin_addr);
}

}  // namespace thaw
