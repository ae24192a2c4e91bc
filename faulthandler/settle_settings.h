#pragma once

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/handler_settings.h"

namespace thaw {

/// What the settings are wanted for.
enum class SettingsUse {
  kFirstStart,  // an operator reads what is wrong; a name that does not resolve is resolved later
  kRestart,     // VMs wait: no name server is asked, and TLS that was in force stays if need be
  kProof,       // of a program that could follow: nothing may be worse than before
};

/// Makes of what the operator gave all that a handler needs. `before`: what was in force; nullptr:
/// nothing was. Fails where the settings cannot be served with.
Result<HandlerSettings> settle(HandlerSettings given, const HandlerSettings* before,
                               SettingsUse use);

/// Where operators are answered.
Result<UniqueFd> listen_for_operators(const HandlerSettings& settings);

/// The client's side of TLS by these settings; nullptr without TLS. Files that have become bad
/// count as they were.
Result<std::shared_ptr<TlsContext>> tls_of(const HandlerSettings& settings);

}  // namespace thaw
