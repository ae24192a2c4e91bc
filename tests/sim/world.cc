#include "tests/sim/world.h"

#include "tests/sim/apart.h"
#include "tests/support/store_of.h"

namespace thaw::sim {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kMostPreparation{20};  // before the VMM comes
constexpr milliseconds kMostTrouble{6000};    // how long the world is bad
/// Within which all that waits goes on once the world is well: the longest of the handler's
/// patiences one after the other.
constexpr seconds kMostRecovery{40};
/// The same for memory that nobody waits for: a recording goes before it.
const Nanoseconds kMostCompletion = kMostRecovery + limits::kFirstTouchPatience;
constexpr seconds kMostEnd{15};
constexpr milliseconds kMostEarlyDeath{500};  // in which VMs change their memory
/// From a death to the next handler, which begins after what the dead one has said was heard.
constexpr std::chrono::microseconds kLeastRestart{200};
constexpr milliseconds kMostRestart{300};
/// Of a run that goes on and on in no time.
constexpr std::uint64_t kMostSteps = 2'000'000;

}  // namespace

NetworkFaults World::draw_network(Random& random) {
  NetworkFaults faults{
      .latency = Nanoseconds(static_cast<std::int64_t>(random.chance(800) ? 200'000 : 20'000'000)),
      .bytes_per_ms = random.chance(700) ? 1'000'000u : 20'000u};
  if (random.chance(300)) return faults;
  const auto some = [&random] {
    return static_cast<unsigned>(random.below(4) * random.below(200));
  };
  faults.refused = some();
  faults.unanswered = some() / 4;
  faults.cut = some();
  faults.silent = some() / 3;
  faults.stalled = some() / 2;
  return faults;
}

StoreFaults World::draw_store(Random& random) {
  StoreFaults faults;
  if (random.chance(500)) faults.cold = static_cast<unsigned>(random.below(1000));
  if (random.chance(300)) faults.refused = static_cast<unsigned>(random.below(400));
  if (random.chance(300)) faults.damaged = static_cast<unsigned>(random.below(600));
  return faults;
}

VmmOptions World::draw_vmm(Random& random) {
  const auto some = [&random](std::uint64_t most) {
    return static_cast<unsigned>(random.chance(500) ? random.below(most + 1) : 0);
  };
  return {.vcpus = static_cast<unsigned>(random.from_to(1, 4)),
          .accesses = static_cast<unsigned>(random.from_to(1, 120)),
          .writes = static_cast<unsigned>(random.below(600)),
          .think = Nanoseconds(static_cast<std::int64_t>(random.chance(500) ? 20'000 : 2'000'000)),
          // Now and then more than are read at a time.
          .removals = random.chance(20) ? 600 : some(12),
          .unmaps = some(2),
          .moves = some(3),
          .signals = some(10),
          .keeps_userfaultfd = random.chance(500),
          .closes_connection = random.chance(200)};
}

HandlerOptions World::draw_handler() {
  Random& random = schedule_.random();
  HandlerOptions options;
  if (random.chance(250)) options.on_unservable = UnservablePolicy::kKill;
  options.around = std::uint32_t{1} << random.below(7);
  if (random.chance(600)) options.set = snapshot_.set;
  if (random.chance(400)) options.hydrate_bytes_per_s = random.from_to(256u << 10, 64u << 20);
  if (random.chance(300)) {
    options.window_use = random.chance(500) ? WindowUse::kRecord : WindowUse::kTrace;
  }
  if (random.chance(300)) options.local = static_cast<unsigned>(random.below(1000));
  return options;
}

World::World(std::uint64_t seed, const std::vector<StoredSnapshot>& snapshots, Trace trace)
    : schedule_(seed, trace),
      machine_(schedule_),
      snapshot_(snapshots[schedule_.random().below(snapshots.size())]),
      network_(machine_, draw_network(schedule_.random())),
      store_(schedule_, snapshot_, draw_store(schedule_.random())),
      server_(network_, store_, snapshot_.image->origin.store) {
  machine_.set_tcp([this] { return network_.make_socket(); });
  Random& random = schedule_.random();
  server_.set_lies(random.chance(200) ? static_cast<unsigned>(random.below(200)) : 0);
  const auto file = std::make_shared<MemoryFile>(schedule_, snapshot_.contents);
  machine_.set_memory_file(file);
  const unsigned shared = random.chance(250) ? 700 : 0;
  for (std::uint64_t left = random.chance(700) ? 1 : random.from_to(2, 4); left > 0; --left) {
    HandlerOptions handler = draw_handler();
    VmmOptions vmm = draw_vmm(random);
    handler.shared = vmm.shared = random.chance(shared);
    restores_.push_back({handler, std::make_shared<UnixListener>(machine_),
                         std::make_unique<Vmm>(machine_, snapshot_, vmm, file)});
  }
  deaths_ = random.chance(300) ? random.from_to(1, 6) : 0;
  machine_.set_on_death([this] { on_death(); });
}

template <typename Predicate>
bool World::all_alive(Predicate predicate) const {
  for (std::size_t i = 0; i < restores_.size(); ++i) {
    if (!restores_[i].vmm->exited() && !predicate(i)) return false;
  }
  return true;
}

template <typename Predicate>
bool World::go_on_until(const char* what, Nanoseconds most, Predicate predicate) {
  const auto end = schedule_.now() + most;
  while (schedule_.violation().empty() && !predicate()) {
    if (schedule_.now() > end || schedule_.steps() > kMostSteps || !schedule_.step()) {
      schedule_.violate(fmt::format("{} did not happen", what));
    }
  }
  return schedule_.violation().empty();
}

void World::plan_outages() {
  Random& random = schedule_.random();
  for (std::uint64_t left = random.chance(300) ? random.from_to(1, 3) : 0; left > 0; --left) {
    const Nanoseconds start = random.duration(kMostTrouble / 2);
    schedule_.after(start, [this] { server_.go_away(); });
    schedule_.after(start + random.duration(kMostTrouble / 2), [this] { server_.come_back(); });
  }
  for (const Restore& restore : restores_) {
    if (!random.chance(100)) continue;
    schedule_.after(random.duration(kMostTrouble), [&restore] { restore.vmm->exit(); });
  }
}

/// Some die between two turns, the others before or after a system call, soon after they began.
void World::plan_deaths() {
  Random& random = schedule_.random();
  for (std::uint64_t left = deaths_; left > 0; --left) {
    const Nanoseconds when =
        random.duration(random.chance(700) ? kMostEarlyDeath : kMostTrouble / 2);
    const auto calls = static_cast<unsigned>(random.below(60));
    if (random.chance(300)) {
      schedule_.after(when, [this] {
        if (handler_ != nullptr) on_death();
      });
    } else {
      schedule_.after(when, [this, calls] { machine_.set_calls_until_death(calls); });
    }
  }
  schedule_.after(kMostTrouble / 2, [this] { machine_.set_calls_until_death({}); });
}

void World::on_death() {
  schedule_.note("the handler dies");
  Handler& dead = *handler_.release();
  dead.abandon();
  machine_.end_process(dead.process());
  schedule_.after(kLeastRestart + schedule_.random().duration(kMostRestart),
                  [this] { start_next_handler(); });
}

void World::start_next_handler() {
  const Machine::In process(machine_, ++handlers_);
  handler_ = std::make_unique<Handler>(machine_, snapshot_, *keeper_);
  machine_.run_in(handlers_, [this] {
    for (std::size_t i = 0; i < restores_.size(); ++i) {
      handler_->adopt_session(restores_[i].options, keeper_->kept(i));
    }
  });
}

void World::heal() {
  schedule_.note("all is well again");
  network_.heal();
  store_.heal();
  server_.come_back();
  server_.set_lies(0);
}

bool World::restore() {
  keeper_ = std::make_unique<Keeper>(machine_);
  {
    const Machine::In process(machine_, ++handlers_);
    handler_ = std::make_unique<Handler>(machine_, snapshot_, *keeper_);
    for (const Restore& restore : restores_) {
      handler_->add_session(restore.options, restore.listener);
    }
  }
  for (const Restore& restore : restores_) {
    schedule_.after(schedule_.random().duration(kMostPreparation),
                    [&restore] { restore.vmm->start(*restore.listener); });
  }
  plan_outages();
  plan_deaths();
  schedule_.after(schedule_.random().duration(kMostTrouble), [this] { heal(); });
  const auto end = schedule_.now() + kMostTrouble;
  return go_on_until("the end of the trouble", kMostTrouble + milliseconds(1),
                     [this, end] { return schedule_.now() >= end; }) &&
         go_on_until("the guest's going on", kMostRecovery, [this] {
           return all_alive([this](std::size_t i) { return restores_[i].vmm->finished(); });
         });
}

bool World::read_everything() {
  for (const Restore& restore : restores_) {
    if (!restore.vmm->exited()) restore.vmm->read_all();
  }
  return go_on_until(
             "the guest's reading of all its memory", kMostRecovery,
             [this] {
               return all_alive([this](std::size_t i) { return restores_[i].vmm->finished(); });
             }) &&
         go_on_until("the memory's being complete", kMostCompletion, [this] {
           return all_alive([this](std::size_t i) {
             return restores_[i].options.hydrate_bytes_per_s == 0 || restores_[i].options.shared ||
                    handler_->report(i).state == SessionState::kDetached;
           });
         });
}

void World::end_session(std::size_t number) {
  Vmm& vmm = *restores_[number].vmm;
  if (vmm.was_killed() && !store_.has_failed() && !server_.has_lied()) {
    schedule_.violate("a VM was killed for no reason: " + handler_->report(number).outcome);
  }
  if (vmm.exited()) {
    // It may have gone before it came.
    if (handler_->has_session(number)) handler_->kill_vm(number);
    return;
  }
  const auto ending = static_cast<Ending>(schedule_.random().below(3));
  if (ending == Ending::kKilledByOperator) return handler_->kill_vm(number);
  if (ending == Ending::kFarewell && vmm.can_say_farewell()) return vmm.say_farewell();
  vmm.exit();
}

bool World::end_sessions() {
  // What is asked for by then was given back meanwhile, and comes all the same.
  if (!go_on_until("the end of all requests", kMostRecovery, [this] {
        return all_alive([this](std::size_t i) { return handler_->report(i).waiting_pages == 0; });
      })) {
    return false;
  }
  for (std::size_t i = 0; i < restores_.size(); ++i) end_session(i);
  return go_on_until("the sessions' end", kMostEnd, [this] {
    for (std::size_t i = 0; i < restores_.size(); ++i) {
      if (handler_->has_session(i)) return false;
    }
    return true;
  });
}

bool World::end_handler() {
  if (!server_.nothing_is_pinned(snapshot_.image->manifest.snapshot) &&
      !go_on_until("the unpinning of the snapshot", kMostEnd, [this] {
        return server_.nothing_is_pinned(snapshot_.image->manifest.snapshot);
      })) {
    return false;
  }
  handler_->close();
  if (!go_on_until("the handler's end", kMostEnd, [this] { return handler_->closed(); })) {
    return false;
  }
  handler_.reset();
  if (!go_on_until("the end of what was kept", kMostEnd, [this] { return keeper_->idle(); })) {
    return false;
  }
  keeper_.reset();
  if (!go_on_until("the end of all connections", kMostEnd,
                   [this] { return server_.connections() == 0; })) {
    return false;
  }
  if (machine_.open_descriptors() != 0) {
    schedule_.violate(fmt::format("{} descriptors are left", machine_.open_descriptors()));
  }
  return schedule_.violation().empty();
}

void World::run() {
  if (restore() && read_everything() && end_sessions()) end_handler();
}

Outcome World::outcome() const {
  return {schedule_.violation(), schedule_.trace_hash(), schedule_.steps()};
}

Outcome run_seed(std::uint64_t seed, const std::vector<StoredSnapshot>& snapshots, Trace trace) {
  auto world = std::make_unique<World>(seed, snapshots, trace);
  const auto run = [&] {
    world->run();
    return world->outcome();
  };
  const Outcome outcome = world->has_deaths() ? run_apart(run) : run();
  if (!outcome.violation.empty()) world.release()->abandon();
  return outcome;
}

}  // namespace thaw::sim
