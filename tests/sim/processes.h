#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "faulthandler/served_door.h"
#include "faulthandler/session_keep.h"
#include "tests/sim/handler.h"
#include "tests/sim/machine.h"
#include "tests/sim/sim_loop.h"

namespace thaw::sim {

/// The processes of a fault handler on a simulated machine: a supervisor, with the real
/// SessionKeep and its doors, and the handler that it has started. Handlers die, are noticed to be
/// dead, and are followed by others; a supervisor becomes another one, or dies with its handler
/// between two turns and is followed by one that has what the service manager was given. One
/// thread.
class Processes final : private SessionKeep::Owner {
 public:
  /// Makes the handler of the process that the machine runs.
  using MakeHandler = std::function<std::unique_ptr<Handler>(UniqueFd supervisor)>;
  Processes(Machine& machine, MakeHandler make_handler);
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  virtual ~Processes() = default;

  /// Who is told when VMs are served again, after so long.
  void set_on_served_again(std::function<void(Nanoseconds outage)> told) {
    told_ = std::move(told);
  }
  /// nullptr: none serves at the moment.
  Handler* handler() const;
  /// Does what is asked of the handler, as a turn of it. It may die meanwhile. REQUIRES: handler().
  void ask(const std::function<void(Handler&)>& ask);
  /// The handler dies between two of its turns, if there is one.
  void kill_handler();
  /// After the next death it takes so long until there is another one.
  void delay_next_handler(Nanoseconds delay) { next_delay_ = delay; }
  /// The program is replaced, as soon as it can be.
  void upgrade();
  /// Both processes die while no VMM is in a door, whose handoff would be lost.
  void restart();
  /// From now on neither of them dies.
  void let_live();
  bool was_restarted() const { return was_restarted_; }
  /// Whether VMs were without a handler for so long that their policies were applied.
  bool nobody_served() const;

  /// The handler has ended by itself, and so does the supervisor. REQUIRES: handler()->closed().
  void stop();
  bool stopped() const;
  /// Nothing may be left. REQUIRES: stopped().
  void end();

 private:
  using Kept = std::map<std::string, std::shared_ptr<File>>;
  void keep(const std::string& name, const UniqueFd& descriptor) override;
  void forget(const std::string& name) override;
  Result<UniqueFd> open_door(KeepMessage order) override;
  void close(KeptSession) override {}
  /// Whether a VMM is in a door: with the supervisor, its handoff would be lost.
  bool doors_are_busy() const;
  void on_serving() override;
  void on_upgrade() override;
  void on_settings(UniqueFd) override {}
  void on_handler_lost(KeepChannel::End) override {}
  void begin_supervisor(const Kept& kept);
  void replace_supervisor(const Kept& kept);
  void start_handler();
  void start_handler_later();
  void on_death();
  void bury_handler();
  void become_another();
  /// Has the supervisor that there is now do it, if it is still there then.
  void later(Nanoseconds delay, void (Processes::*action)());

  Machine& machine_;
  const MakeHandler make_handler_;
  std::function<void(Nanoseconds)> told_;
  Kept stored_;  // with the service manager
  std::unique_ptr<SimLoop> loop_;
  std::unique_ptr<SessionKeep> keep_;
  std::vector<std::unique_ptr<ServedDoor>> doors_;
  std::unique_ptr<Handler> handler_;
  unsigned handlers_ = 0;     // that there have been
  unsigned supervisors_ = 0;  // the same
  std::optional<Nanoseconds> next_delay_;
  std::optional<Clock::time_point> unserved_since_;
  bool may_die_ = true;
  bool was_restarted_ = false;
  bool nobody_served_ = false;
};

}  // namespace thaw::sim
