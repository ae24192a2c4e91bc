#pragma once

#include <cstdint>
#include <functional>

#include "base/clock.h"
#include "base/error.h"
#include "cli/limits.h"
#include "cli/server_list.h"

namespace thaw {

/// Work over a connection to a page server that goes on over a new one when the connection is lost
/// or brings no reply. It ends when it came no further for limits::kNoProgress. One thread.
class Transfer {
 public:
  explicit Transfer(ServerList servers) : servers_(std::move(servers)) {}

  /// Each connection starts with `begin`, which may be repeated with another server. Then `work`
  /// does what earlier connections have left to do.
  /// Fails at once when no server can be reached at first, and with every error that a new
  /// connection does not cure.
  using Step = std::function<Result<void>(PageClient&)>;
  Result<void> run(const Step& begin, const Step& work);
  /// How far the work has come. Only further than ever before counts.
  void reached(std::uint64_t position);

  /// How often a connection was lost.
  unsigned reconnects() const { return reconnects_; }
  std::uint64_t received_bytes() const { return received_bytes_; }

 private:
  /// Waits before the next connection; fails when the work comes no further.
  Result<void> pause_after(const Error& error);

  ServerList servers_;
  unsigned reconnects_ = 0;
  std::uint64_t received_bytes_ = 0;
  std::uint64_t furthest_ = 0;
  Clock::time_point progress_ = Clock::now();
  Nanoseconds pause_ = limits::kFirstReconnectPause;
};

}  // namespace thaw
