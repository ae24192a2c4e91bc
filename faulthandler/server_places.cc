#include "faulthandler/server_places.h"

#include <algorithm>

#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

bool is_same_server(const std::optional<ServerAddress>& a, const std::optional<ServerAddress>& b) {
  if (!a || !b) return a.has_value() == b.has_value();
  return a->tcp == b->tcp && a->host == b->host;
}

ServerPlaces place_servers(const ServerPlaces& before, const std::vector<ServerAddress>& wanted,
                           const ServerSet& answering) {
  const auto holds = [](const auto& servers, const std::optional<ServerAddress>& server) {
    return std::ranges::any_of(servers,
                               [&](const auto& each) { return is_same_server(each, server); });
  };
  ServerPlaces places = before;
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (places[i] && !holds(wanted, places[i]) && !answering[i]) places[i].reset();
  }
  for (const ServerAddress& server : wanted) {
    if (holds(places, server)) continue;
    const auto free =
        std::ranges::find_if(places, [](const auto& place) { return !place.has_value(); });
    if (free != places.end()) {
      *free = server;
    } else if (places.size() < limits::kMaxServers) {
      places.emplace_back(server);
    } else {
      log_warning("page server {} is one too many: {} are the limit", server.text(),
                  limits::kMaxServers);
    }
  }
  return places;
}

std::vector<ServerAddress> servers_in(const ServerPlaces& places) {
  std::vector<ServerAddress> servers;
  for (const auto& place : places) {
    if (place) servers.push_back(*place);
  }
  return servers;
}

}  // namespace thaw
