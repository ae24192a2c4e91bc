#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/stream.h"
#include "format/page_client.h"

namespace thaw {

/// The page servers that --server names. All keep the same store, but any of them may be away, hang
/// or be a replica, which refuses writes. So a command is given to one address after the other,
/// beginning with the one that served last, until one of them does it. Each connection attempt has
/// the deadlines of PageClient::connect(). Names are resolved when their turn comes. One thread.
class ServerList {
 public:
  /// `names` are HOST:PORT or unix:PATH each. kInvalidArgument for text of another form and for TLS
  /// files that do not go together; kTls for files that are of no use.
  static Result<ServerList> create(std::vector<std::string> names, TransportFlags flags,
                                   std::string name_space);

  /// What a connection begins with. It may be repeated with another server.
  using Beginning = std::function<Result<void>(PageClient&)>;
  /// A connection on which `begin` has succeeded. When all servers fail, the error names each; its
  /// code is of the first that answered, else of the first. A replica's refusal counts least.
  /// kInvalidArgument where the flags do not allow an address.
  Result<PageClient> connect(const Beginning& begin);
  Result<PageClient> connect() {
    return connect([](PageClient&) { return Result<void>(); });
  }

  /// The value that `ask`, a function of a PageClient&, has got from one of the servers.
  template <typename Ask>
  auto ask(Ask ask) -> std::invoke_result_t<Ask&, PageClient&> {
    std::optional<std::invoke_result_t<Ask&, PageClient&>> answer;
    const auto asked = connect([&](PageClient& client) -> Result<void> {
      answer.emplace(ask(client));
      if (!*answer) return std::unexpected(answer->error());
      return {};
    });
    if (!asked) return std::unexpected(asked.error());
    return *std::move(answer);
  }

 private:
  ServerList(std::vector<std::string> names, TransportFlags flags, std::string name_space,
             std::shared_ptr<TlsContext> tls)
      : names_(std::move(names)),
        flags_(std::move(flags)),
        name_space_(std::move(name_space)),
        tls_(std::move(tls)) {}

  std::vector<std::string> names_;
  TransportFlags flags_;
  std::string name_space_;
  std::shared_ptr<TlsContext> tls_;
  std::optional<ServerAddress> last_;  // that served
};

}  // namespace thaw
