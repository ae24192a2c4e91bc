#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/stream.h"
#include "base/unique_fd.h"
#include "format/store_id.h"
#include "pageserver/descriptors.h"
#include "pageserver/jobs.h"
#include "pageserver/limits.h"
#include "pageserver/peer.h"
#include "pageserver/store.h"

namespace thaw {

struct ServerOptions {
  TcpAddress listen;
  StoreId store_id;
  StoreUse use = StoreUse::kOwn;
  std::shared_ptr<TlsContext> tls;  // nullptr: plain TCP, or a UNIX socket
  /// File. If it is empty, TCP's peers may do everything, and on a UNIX socket root and the
  /// server's user.
  std::string policy;
  DescriptorShares descriptors{.connections = 1024, .strangers = 64, .tables = 0};
  std::size_t kept_recordings = limits::kDefaultKeptRecordings;  // of a snapshot
  UpkeepOptions upkeep;
  std::chrono::seconds pin_grace{60};  // a fault handler that was lost may come back so long
};

/// Serves `store` until `signals`, which comes from take_signals(), has one that is not
/// SIGHUP. Then finishes the requests that are under way and returns. On SIGHUP, reads its
/// certificate and policy again and opens the log's file again. Calls `ready` once with the address
/// it listens on. Blocks; uses threads of its own: requests for pages run on threads that bulk work
/// never takes.
Result<void> run_server(Store& store, const ServerOptions& options, const UniqueFd& signals,
                        const std::function<void(const std::string& address)>& ready);

}  // namespace thaw
