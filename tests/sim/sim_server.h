#pragma once

#include <memory>
#include <vector>

#include "pageserver/peer.h"
#include "tests/sim/network.h"
#include "tests/sim/sim_store.h"

namespace thaw::sim {

/// The page server at the other end of the network: the real protocol over a simulated store. It
/// answers after a while, and may be away. One thread.
class SimServer final : private Network::Listener {
 public:
  SimServer(Network& network, SimStore& store, const StoreId& id);
  SimServer(const SimServer&) = delete;
  SimServer& operator=(const SimServer&) = delete;

  /// Until it is back all connections are lost, and none is accepted. What it keeps, stays.
  void go_away();
  void come_back() { away_ = false; }
  /// The longest that a request takes.
  void set_service_time(Nanoseconds most) { service_time_ = most; }
  /// So many replies of a thousand are not what they should be.
  void set_lies(unsigned per_mille) { lies_ = per_mille; }
  bool has_lied() const { return has_lied_; }
  std::uint64_t connections() const { return state_.connections.taken().by_all; }
  /// Whether nobody has the snapshot pinned.
  bool nothing_is_pinned(SnapshotId snapshot);

 private:
  struct Served;
  bool accepts() const override { return !away_; }
  void on_connection(const std::shared_ptr<Connection>& connection) override;
  void go_on(const std::shared_ptr<Served>& served);
  void distort(Message& message, std::uint64_t& request_id, Bytes& body);
  void answer(const std::shared_ptr<Served>& served, const Bytes& request);

  Network& network_;
  SimStore& store_;
  ServerCommon state_;
  Nanoseconds service_time_{1'000'000};
  bool away_ = false;
  unsigned lies_ = 0;
  bool has_lied_ = false;
  std::vector<std::shared_ptr<Connection>> connections_;  // in the order in which they came
};

}  // namespace thaw::sim
