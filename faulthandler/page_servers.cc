#include "faulthandler/page_servers.h"

#include <optional>

#include "base/log.h"

namespace thaw {

Result<void> PageServers::ask(const std::string& name_space,
                              const std::function<Result<void>(PageClient&)>& ask,
                              const std::stop_token& stop) {
  std::optional<Error> failure;
  const std::vector<ServerAddress> addresses = this->addresses();
  if (addresses.empty()) {
    return fail(ErrorCode::kUnavailable, "no page server's name resolves");
  }
  const std::size_t first = last_;
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    const std::size_t server = (first + i) % addresses.size();
    auto client = PageClient::connect(addresses[server], name_space, stop);
    auto asked = client ? ask(*client) : std::unexpected(client.error());
    if (asked) {
      last_ = server;
      return {};
    }
    if (stop.stop_requested()) return fail(ErrorCode::kStopped, "the command was called off");
    if (!is_of_one_server(asked.error())) return asked;
    if (addresses.size() > 1) {
      log_warning(LogKind("requests to page server " + addresses[server].text(), asked.error()),
                  "page server {}: {}", addresses[server].text(), asked.error().message());
    }
    if (!failure || (is_away(asked.error()) && !is_away(*failure))) failure = asked.error();
  }
  return std::unexpected(*failure);
}

Result<void> PageServers::tell_all(const Origin& origin,
                                   const std::function<Result<void>(PageClient&)>& tell) const {
  const auto tell_one = [&](const ServerAddress& address) -> Result<void> {
    PageClient client = TRY(PageClient::connect(address, origin.name_space));
    if (client.store() == origin.store) return tell(client);
    return fail(ErrorCode::kWrongStore, "it keeps the store {}", client.store().text());
  };
  Result<void> told = fail(ErrorCode::kUnavailable, "there is no page server");
  for (const ServerAddress& address : addresses()) {
    auto one = tell_one(address);
    if (!told) told = std::move(one);
  }
  return told;
}

}  // namespace thaw
