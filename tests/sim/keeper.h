#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "faulthandler/kept_session.h"
#include "faulthandler/vmm_door.h"
#include "tests/sim/machine.h"
#include "tests/sim/sim_loop.h"

namespace thaw::sim {

/// The process that outlives handlers, as far as sessions depend on it: takes their VMMs in, and
/// holds on to what another handler needs to go on. Sessions count from 0. One thread.
class Keeper {
 public:
  explicit Keeper(Machine& machine);
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  /// Who is told, after a while, when a VMM has come, with what came with it. Whoever was
  /// told before is told no more.
  using Tell = std::function<void(std::size_t session, const KeptSession& arrived)>;
  void serve(Tell tell);
  /// From now on nobody is told.
  void leave();
  /// Keeps copies of what the next session leaves, and lets its VMM in.
  void keep(const KeptSession& left);
  /// Copies of all that is kept of a session; nothing is when it is over.
  KeptSession kept(std::size_t session) const;
  /// The session is over, the handler says; heard after a while.
  void drop(std::size_t session);
  /// Whether nothing is kept any more.
  bool idle() const;

 private:
  struct Entry {
    KeptSession kept;
    std::unique_ptr<VmmDoor> door;
  };
  void on_arrival(std::size_t session, Arrival arrival);
  void forget(std::size_t session);

  Machine& machine_;
  SimLoop loop_;
  std::vector<Entry> sessions_;
  Tell tell_;
  unsigned handlers_ = 0;  // that have served so far
};

}  // namespace thaw::sim
