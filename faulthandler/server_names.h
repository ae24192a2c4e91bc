#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/stream.h"
#include "faulthandler/handler_settings.h"

namespace thaw {

/// Names of page servers have addresses that change while VMs run, and name servers fail. What was
/// known of a name counts until the name resolves again.

/// Resolves each name. `known` has what was known of them before. A name that does not resolve
/// keeps its addresses, and may have none. Blocks as long as the name servers do.
/// kInvalidArgument for a text that is no address, and for an address that may not be used
/// without TLS.
Result<std::vector<NamedServer>> resolve_names(const std::vector<std::string>& names,
                                               const std::vector<NamedServer>& known,
                                               const TransportFlags& transport);
/// The same without asking a name server: numbers, and what is known.
std::vector<NamedServer> recall_names(const std::vector<std::string>& names,
                                      const std::vector<NamedServer>& known);

/// All addresses of all names, in their order, each once; at most limits::kMaxServers.
std::vector<ServerAddress> addresses_of(const std::vector<NamedServer>& names,
                                        const std::shared_ptr<TlsContext>& tls);

/// Names of which no address is known.
std::vector<std::string> unresolved_names(const std::vector<NamedServer>& names);

/// A thread that keeps the settings true while the handler serves: it resolves the names again, and
/// looks at the files of TLS. A name server that does not answer holds up this thread alone.
class SettingsWatch {
 public:
  /// `on_change` gets the settings that are in force from now on, on the watch's thread.
  SettingsWatch(HandlerSettings settings, std::shared_ptr<TlsContext> tls,
                std::function<void(const HandlerSettings&)> on_change);
  SettingsWatch(const SettingsWatch&) = delete;
  SettingsWatch& operator=(const SettingsWatch&) = delete;
  /// Does not wait for a name server: the thread ends when that has answered, and calls nothing.
  ~SettingsWatch();

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace thaw
