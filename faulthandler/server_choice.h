#pragma once

#include <bitset>
#include <cstddef>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "faulthandler/limits.h"

namespace thaw {

/// Page servers by their place in the list of those that were given.
using ServerSet = std::bitset<limits::kMaxServers>;

/// Which of several page servers is asked next, and when a second one is: the rules, without
/// connections. Requests stay with one server, whose caches know them, until it is lost or left.
/// One that fails or is outpaced several times in a row is left for a while, longer each time, and
/// is asked meanwhile only when there is no other. One thread; the time is passed in.
class ServerChoice {
 public:
  explicit ServerChoice(std::size_t servers) : servers_(servers) {}

  /// Another server has its number from now on.
  void forget(std::size_t server) { servers_[server] = Server(); }
  void on_ready(std::size_t server) { servers_[server].ready = true; }
  /// Its connection is gone, or could not be made.
  void on_lost(std::size_t server, Clock::time_point now);
  /// It has answered a request, whether or not another was quicker.
  void on_reply(std::size_t server, Nanoseconds took);
  /// A request to it has passed its deadline.
  void on_overdue(std::size_t server, Clock::time_point now);
  /// Another server, asked later, was quicker.
  void on_outpaced(std::size_t server, Clock::time_point now);

  /// Who is asked now; nothing: none of the others is there.
  std::optional<std::size_t> pick(const ServerSet& except, Clock::time_point now);
  bool is_ready(std::size_t server) const { return servers_[server].ready; }
  /// Whether it is left to itself although it is there.
  bool is_left(std::size_t server, Clock::time_point now) const {
    return now < servers_[server].left_until;
  }

  /// A request to this server is sent to a second one too when it takes longer than this: longer
  /// than all but one in twenty of its replies, and never less than limits::kHedgeFloor.
  Nanoseconds hedge_after(std::size_t server) const;
  /// A request was sent. Of ten of them one may be hedged.
  void on_request();
  /// Takes the right to hedge one request, if there is one.
  bool take_hedge();

 private:
  struct Server {
    bool ready = false;
    unsigned failures = 0;  // in a row
    unsigned outpaced = 0;  // in a row
    Clock::time_point left_until;
    Nanoseconds pause{limits::kServerPauseFirst};  // when it is left the next time
    Nanoseconds p95{0};                            // of its replies, about; 0: none came yet
  };

  void leave(Server& server, Clock::time_point now);

  std::vector<Server> servers_;
  std::size_t current_ = 0;
  unsigned hedge_tenths_ = limits::kHedgeBurst * 10;
};

}  // namespace thaw
