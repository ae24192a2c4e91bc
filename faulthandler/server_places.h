#pragma once

#include <optional>
#include <vector>

#include "base/stream.h"
#include "faulthandler/server_choice.h"

namespace thaw {

/// Page servers by their numbers; nothing: that number has no server now. Requests and refusals are
/// noted by number, so a server keeps its number for as long as it is one.
using ServerPlaces = std::vector<std::optional<ServerAddress>>;

bool is_same_server(const std::optional<ServerAddress>& a, const std::optional<ServerAddress>& b);

/// The places once `wanted` is what the names stand for. A server that is not wanted any more keeps
/// its place while it answers: what works is not dropped. A new one gets a free place, and none
/// when limits::kMaxServers are taken.
ServerPlaces place_servers(const ServerPlaces& before, const std::vector<ServerAddress>& wanted,
                           const ServerSet& answering);
/// Those that there are.
std::vector<ServerAddress> servers_in(const ServerPlaces& places);

}  // namespace thaw
