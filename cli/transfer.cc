#include "cli/transfer.h"

#include <algorithm>
#include <thread>

#include "base/log.h"

namespace thaw {

namespace {

/// Whether another connection may help.
bool connection_lost(const Error& error) {
  return is_away(error) || error.code() == ErrorCode::kStopped;
}

/// Whether a server that had let this client in may do so again soon.
bool may_connect_later(const Error& error) {
  return connection_lost(error) || error.code() == ErrorCode::kLimitExceeded ||
         error.code() == ErrorCode::kTls;
}

}  // namespace

Result<void> Transfer::run(const Step& begin, const Step& work) {
  bool connected_before = false;
  // A server may be slow, so each reply that did not come in time makes the next wait longer.
  Nanoseconds patience = limits::kFirstReply;
  progress_ = Clock::now();
  while (true) {
    auto client = servers_.connect([&](PageClient& begun) {
      connected_before = true;
      begun.set_patience(patience);
      return begin(begun);
    });
    if (!client) {
      const Error& error = client.error();
      if (!connected_before || !may_connect_later(error)) return std::unexpected(error);
      TRY(pause_after(error));
      continue;
    }
    const auto done = work(*client);
    received_bytes_ += client->bytes_received();
    if (done || !connection_lost(done.error())) return done;
    log_warning("{}; connecting again", done.error().message());
    ++reconnects_;
    if (done.error().code() == ErrorCode::kTimeout) {
      patience = std::min<Nanoseconds>(2 * patience, limits::kRequestTimeout);
    }
    TRY(pause_after(done.error()));
  }
}

void Transfer::reached(std::uint64_t position) {
  if (position <= furthest_) return;
  furthest_ = position;
  progress_ = Clock::now();
  pause_ = limits::kFirstReconnectPause;
}

Result<void> Transfer::pause_after(const Error& error) {
  if (Clock::now() - progress_ > limits::kNoProgress) {
    return fail(error.code(), "no progress for {} s: {}", limits::kNoProgress.count(),
                error.context());
  }
  std::this_thread::sleep_for(pause_);
  pause_ = std::min<Nanoseconds>(2 * pause_, limits::kMostReconnectPause);
  return {};
}

}  // namespace thaw
