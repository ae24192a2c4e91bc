#include "faulthandler/settle_settings.h"

#include "base/socket.h"
#include "faulthandler/placement.h"
#include "faulthandler/server_names.h"
#include "format/manifest.h"

namespace thaw {

namespace {

bool uses_tls(const HandlerSettings& settings) {
  return !settings.transport.tls.certificate.empty();
}

Result<TlsPem> settle_tls(const HandlerSettings& given, const HandlerSettings* before,
                          SettingsUse use) {
  const bool falls_back =
      use == SettingsUse::kRestart && before != nullptr && uses_tls(*before) && uses_tls(given);
  const auto tls =
      falls_back
          ? TRY(TlsContext::load(given.transport.tls, TlsContext::Side::kClient, before->pem))
          : TRY(load_tls(given.transport, TlsContext::Side::kClient));
  return tls == nullptr ? TlsPem() : tls->pem();
}

Result<std::vector<NamedServer>> settle_names(const HandlerSettings& given,
                                              const std::vector<NamedServer>& known,
                                              SettingsUse use) {
  for (const std::string& name : given.servers) TRY(check_address(name));
  std::vector<NamedServer> servers = recall_names(given.servers, known);
  if (use == SettingsUse::kRestart) return servers;
  for (NamedServer& server : servers) {
    // One that is known is resolved again while the handler serves.
    if (use == SettingsUse::kProof && !server.addresses.empty() && !is_numeric(server.name)) {
      continue;
    }
    server = TRY(resolve_names({server.name}, known, given.transport)).front();
    if (use == SettingsUse::kProof && server.addresses.empty()) {
      return fail(ErrorCode::kUnavailable, "page server {} does not resolve", server.name);
    }
  }
  return servers;
}

}  // namespace

Result<HandlerSettings> settle(HandlerSettings given, const HandlerSettings* before,
                               SettingsUse use) {
  TRY(check_name(given.name_space, "--namespace"));
  TRY(parse_placement(given.placement));
  TRY(parse_spin(given.spin));
  given.pem = TRY(settle_tls(given, before, use));
  given.resolved = TRY(
      settle_names(given, before == nullptr ? std::vector<NamedServer>() : before->resolved, use));
  const bool same_port = before != nullptr && before->http == given.http;
  // While VMs wait they come first: the handler tries it later, and again.
  if (!given.http.empty() && !same_port && use != SettingsUse::kRestart) {
    TRY(listen_for_operators(given));
  }
  if (use == SettingsUse::kProof && before != nullptr && before->control != given.control) {
    return fail(ErrorCode::kInvalidArgument,
                "--control is {} now, and VMs and operators know {}: that takes a restart",
                given.control, before->control);
  }
  return given;
}

Result<UniqueFd> listen_for_operators(const HandlerSettings& settings) {
  const TcpAddress address = TRY(resolve_tcp(settings.http));
  const bool is_of_this_host = address.is_loopback() || address.is_unix();
  if (!is_of_this_host && !settings.http_public && !settings.transport.insecure) {
    return fail(ErrorCode::kInvalidArgument,
                "/metrics and /healthz are plain HTTP, and every program that reaches {} may read "
                "them; use a loopback address, or allow it with --http-public",
                address.text());
  }
  return listen_tcp(address);
}

Result<std::shared_ptr<TlsContext>> tls_of(const HandlerSettings& settings) {
  if (!uses_tls(settings)) return std::shared_ptr<TlsContext>();
  return TlsContext::load(settings.transport.tls, TlsContext::Side::kClient, settings.pem);
}

}  // namespace thaw
