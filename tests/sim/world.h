#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/handler.h"
#include "tests/sim/network.h"
#include "tests/sim/outcome.h"
#include "tests/sim/processes.h"
#include "tests/sim/schedule.h"
#include "tests/sim/sim_server.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/vmm.h"

namespace thaw::sim {

/// Runs the world of a seed from the restore of VMs to the end of their sessions, of their handler
/// and its supervisor, and of those that took over from others that had died. The same seed of the
/// same program does the same, to the last detail. Checked are: what the guest finds in each page,
/// and with what each is filled; that whoever waits goes on within bounded time once network,
/// server and store are well again; that sessions end as they should and nothing of them is left.
Outcome run_seed(std::uint64_t seed, const std::vector<StoredSnapshot>& snapshots, Trace trace);

/// The world of one seed. One thread.
class World {
 public:
  World(std::uint64_t seed, const std::vector<StoredSnapshot>& snapshots, Trace trace);
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() { schedule_.clear(); }

  void run();
  Outcome outcome() const;
  void abandon() { machine_.abandon(); }
  /// Whether its processes die, which then leave all they have behind.
  bool has_deaths() const { return deaths_ > 0; }

 private:
  static constexpr std::chrono::milliseconds kMostTrouble{6000};  // how long the world is bad
  enum class Ending { kExit, kKilledByOperator, kFarewell };
  static NetworkFaults draw_network(Random& random);
  static StoreFaults draw_store(Random& random);
  static VmmOptions draw_vmm(Random& random);
  HandlerOptions draw_handler();
  /// A VM that is restored.
  struct Restore {
    std::unique_ptr<Vmm> vmm;
    std::optional<std::uint64_t> session{};  // nothing: not prepared yet
    bool is_given_up = false;                // an operator has stopped its session before it came
  };
  void plan_restores();
  void plan_outages();
  void plan_deaths();
  void prepare(std::size_t number);
  void give_up(std::size_t number);
  /// VMs are served again after so long.
  void look_who_waited(Nanoseconds outage);
  void heal();

  /// Lets the world go on until it is so. False when it is not by the end of `most`: a violation
  /// that says what did not happen.
  template <typename Predicate>
  bool go_on_until(const char* what, Nanoseconds most, Predicate predicate);
  bool restore();
  bool read_everything();
  bool end_sessions();
  void end_session(std::size_t number);
  SessionReport report(std::size_t number) const;
  /// Whether some handler serves, and this is so of each VM that lives and is to be served.
  template <typename Predicate>
  bool all_alive(Predicate predicate) const;
  bool end_handler();

  Schedule schedule_;
  Machine machine_;
  const StoredSnapshot& snapshot_;
  Network network_;
  SimStore store_;
  SimServer server_;
  std::vector<HandlerOptions> options_;  // of each restore, by which it is served
  std::vector<Restore> restores_;
  std::uint64_t deaths_ = 0;  // of handlers, at most
  std::unique_ptr<Processes> processes_;
};

}  // namespace thaw::sim
