#include "cli/server_list.h"

#include <algorithm>

#include "base/log.h"
#include "cli/limits.h"

namespace thaw {

namespace {

/// How much an error tells of what was asked for: a replica's refusal tells least, and a server
/// that is away may be the one that knows.
int weight_of(const Error& error) {
  if (error.code() == ErrorCode::kUnsupported) return 0;
  return is_away(error) ? 1 : 2;
}

/// What came of the servers that were asked in vain.
class Failures {
 public:
  void add(std::string server, const Error& error) {
    servers_.push_back({std::move(server), error});
    told_ = false;
  }

  /// Says what the last one cost, before the next is asked.
  void tell() {
    if (std::exchange(told_, true)) return;
    const auto& [server, error] = servers_.back();
    if (error.code() == ErrorCode::kUnsupported || error.code() == ErrorCode::kNotFound ||
        error.code() == ErrorCode::kUnavailable) {
      return;
    }
    log_warning("page server {}: {}; asking the next", server, error.message());
  }

  Error summary() const {
    const auto weight = [](const Failure& failure) { return weight_of(failure.error); };
    const Failure& worst = *std::ranges::max_element(servers_, {}, weight);
    if (servers_.size() == 1) return worst.error;
    std::string text;
    for (const auto& [server, error] : servers_) {
      text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", server, error.message());
    }
    return {worst.error.code(), text};
  }

 private:
  struct Failure {
    std::string server;
    Error error;
  };

  std::vector<Failure> servers_;
  bool told_ = true;
};

}  // namespace

Result<ServerList> ServerList::create(std::vector<std::string> names, TransportFlags flags,
                                      std::string name_space) {
  if (names.empty()) return fail(ErrorCode::kInvalidArgument, "--server names no page server");
  for (const std::string& name : names) TRY(check_address(name));
  auto tls = TRY(load_tls(flags, TlsContext::Side::kClient));
  return ServerList(std::move(names), std::move(flags), std::move(name_space), std::move(tls));
}

Result<PageClient> ServerList::connect(const Beginning& begin) {
  Failures failures;
  std::vector<TcpAddress> asked;
  // Nothing when the next server is to be asked.
  const auto ask = [&](const ServerAddress& server) -> Result<std::optional<PageClient>> {
    const bool again = std::ranges::find(asked, server.tcp) != asked.end();
    if (again || asked.size() == limits::kMaxServersAsked) return std::optional<PageClient>();
    asked.push_back(server.tcp);
    failures.tell();
    auto client = PageClient::connect(server, name_space_);
    const auto begun = client ? begin(*client) : std::unexpected(client.error());
    if (begun) {
      last_ = server;
      return std::optional(*std::move(client));
    }
    if (client && !is_of_one_server(begun.error())) return std::unexpected(begun.error());
    failures.add(server.text(), begun.error());
    return std::optional<PageClient>();
  };

  if (const auto last = last_) {
    if (auto client = TRY(ask(*last))) return *std::move(client);
  }
  for (const std::string& name : names_) {
    const auto servers = resolve_servers(name, flags_, tls_);
    if (!servers) {
      if (servers.error().code() != ErrorCode::kUnavailable) {
        return std::unexpected(servers.error());
      }
      failures.add(name, servers.error());
      continue;
    }
    for (const ServerAddress& server : *servers) {
      if (auto client = TRY(ask(server))) return *std::move(client);
    }
  }
  return std::unexpected(failures.summary());
}

}  // namespace thaw
