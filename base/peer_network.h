#pragma once

#include <string>

#include "base/bytes.h"
#include "base/socket.h"

namespace thaw {

/// The network that an address of 4 or 16 bytes stands for where peers share something: an IPv4
/// address, or the /64 that one IPv6 peer may draw addresses from. Empty for this host: loopback,
/// other sizes and UNIX sockets. Pure.
std::string peer_network(ByteSpan address);
std::string peer_network(const TcpAddress& address);

}  // namespace thaw
