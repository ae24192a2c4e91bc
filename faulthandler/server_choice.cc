#include "faulthandler/server_choice.h"

#include <algorithm>
#include <utility>

namespace thaw {

namespace {

/// The estimate follows in steps of so much of itself: up by 19 parts where a reply took longer,
/// down by one where it did not, so that it rests where one in twenty takes longer.
constexpr int kStep = 100;
constexpr int kUp = 19;
/// A first reply is no percentile yet.
constexpr int kFirstReplies = 2;

}  // namespace

void ServerChoice::leave(Server& server, Clock::time_point now) {
  server.failures = 0;
  server.outpaced = 0;
  server.left_until = now + server.pause;
  server.pause = std::min<Nanoseconds>(server.pause * 2, limits::kServerPauseMost);
}

void ServerChoice::on_lost(std::size_t server, Clock::time_point now) {
  // One that was not there has lost nothing.
  if (std::exchange(servers_[server].ready, false)) on_overdue(server, now);
}

void ServerChoice::on_reply(std::size_t server, Nanoseconds took) {
  Server& from = servers_[server];
  from.failures = 0;
  if (took <= hedge_after(server)) {
    from.outpaced = 0;
    from.pause = limits::kServerPauseFirst;
  }
  if (from.p95 == Nanoseconds(0)) {
    from.p95 = took * kFirstReplies;
  } else {
    from.p95 += took > from.p95 ? from.p95 * kUp / kStep : -from.p95 / kStep;
  }
}

void ServerChoice::on_overdue(std::size_t server, Clock::time_point now) {
  if (++servers_[server].failures >= limits::kMostServerFailures) leave(servers_[server], now);
}

void ServerChoice::on_outpaced(std::size_t server, Clock::time_point now) {
  if (++servers_[server].outpaced >= limits::kMostOutpaced) leave(servers_[server], now);
}

std::optional<std::size_t> ServerChoice::pick(const ServerSet& except, Clock::time_point now) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    // From the current one on, so that of equals it is the one.
    const std::size_t server = (current_ + i) % servers_.size();
    if (!servers_[server].ready || except[server]) continue;
    if (!is_left(server, now)) {
      best = server;
      break;
    }
    if (!best || servers_[server].left_until < servers_[*best].left_until) best = server;
  }
  // One that is only spared this once stays the current one.
  if (best && !except[current_]) current_ = *best;
  return best;
}

Nanoseconds ServerChoice::hedge_after(std::size_t server) const {
  const Nanoseconds p95 = servers_[server].p95;
  if (p95 == Nanoseconds(0)) return limits::kHedgeUnknown;
  return std::clamp<Nanoseconds>(p95, limits::kHedgeFloor, limits::kRequestDeadline);
}

void ServerChoice::on_request() {
  hedge_tenths_ = std::min(hedge_tenths_ + 1, unsigned{limits::kHedgeBurst} * 10);
}

bool ServerChoice::take_hedge() {
  if (hedge_tenths_ < 10) return false;
  hedge_tenths_ -= 10;
  return true;
}

}  // namespace thaw
