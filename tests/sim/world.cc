#include "tests/sim/world.h"

#include "tests/sim/apart.h"
#include "tests/support/store_of.h"

namespace thaw::sim {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Until a handler serves after all, and all VMs.
constexpr seconds kMostOutage{20};
/// Within which all that waits goes on once the world is well: the longest of the handler's
/// patiences one after the other.
constexpr seconds kMostRecovery{40};
/// The same for memory that nobody waits for: a recording goes before it.
const Nanoseconds kMostCompletion = kMostRecovery + limits::kFirstTouchPatience;
constexpr seconds kMostEnd{15};
/// From a handoff to its being taken, on a busy host.
constexpr milliseconds kMostArrival{500};
/// Of a run that goes on and on in no time.
constexpr std::uint64_t kMostSteps = 2'000'000;

}  // namespace

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
  machine_.set_memory_file(
      [this] { return std::make_shared<MemoryFile>(schedule_, snapshot_.contents); });
  const unsigned shared = random.chance(250) ? 700 : 0;
  for (std::uint64_t left = random.chance(700) ? 1 : random.from_to(2, 4); left > 0; --left) {
    HandlerOptions handler = draw_handler();
    VmmOptions vmm = draw_vmm(random);
    handler.shared = vmm.shared = random.chance(shared);
    options_.push_back(handler);
    restores_.push_back({std::make_unique<Vmm>(machine_, snapshot_, vmm)});
  }
  deaths_ = random.chance(300) ? random.from_to(1, 6) : 0;
}

template <typename Predicate>
bool World::all_alive(Predicate predicate) const {
  if (processes_->handler() == nullptr) return false;
  for (std::size_t i = 0; i < restores_.size(); ++i) {
    const Restore& restore = restores_[i];
    if (!restore.vmm->exited() && !restore.is_given_up && !predicate(i)) return false;
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

void World::look_who_waited(Nanoseconds outage) {
  if (outage < limits::kNobodyServes + kMostArrival) return;
  for (std::size_t i = 0; i < restores_.size(); ++i) {
    const Vmm& vmm = *restores_[i].vmm;
    if (options_[i].on_unservable != UnservablePolicy::kKill || vmm.exited() || vmm.was_killed() ||
        restores_[i].is_given_up || vmm.needs_nobody() || !vmm.handed_over_at()) {
      continue;
    }
    if (schedule_.now() - *vmm.handed_over_at() < kMostArrival) continue;
    schedule_.violate(fmt::format("VM {} waited although nobody served", i));
  }
}

bool World::restore() {
  processes_ = std::make_unique<Processes>(machine_, [this](UniqueFd supervisor) {
    return std::make_unique<Handler>(machine_, snapshot_, options_, std::move(supervisor));
  });
  processes_->set_on_served_again([this](Nanoseconds outage) { look_who_waited(outage); });
  plan_restores();
  plan_outages();
  plan_deaths();
  schedule_.after(schedule_.random().duration(kMostTrouble), [this] { heal(); });
  bool over = false;
  schedule_.after(kMostTrouble, [&over] { over = true; });
  if (!go_on_until("the end of the trouble", kMostTrouble, [&over] { return over; })) return false;
  processes_->let_live();
  return go_on_until("the service of all VMs", kMostOutage,
                     [this] { return all_alive([](std::size_t) { return true; }); }) &&
         go_on_until("the guest's going on", kMostRecovery, [this] {
           return all_alive([this](std::size_t i) { return restores_[i].vmm->finished(); });
         });
}

bool World::read_everything() {
  for (const Restore& restore : restores_) {
    if (!restore.vmm->exited() && !restore.is_given_up) restore.vmm->read_all();
  }
  return go_on_until(
             "the guest's reading of all its memory", kMostRecovery,
             [this] {
               return all_alive([this](std::size_t i) { return restores_[i].vmm->finished(); });
             }) &&
         go_on_until("the memory's being complete", kMostCompletion, [this] {
           return all_alive([this](std::size_t i) {
             return options_[i].hydrate_bytes_per_s == 0 || options_[i].shared ||
                    report(i).state == SessionState::kDetached;
           });
         });
}

SessionReport World::report(std::size_t number) const {
  return processes_->handler()->report(*restores_[number].session);
}

void World::end_session(std::size_t number) {
  const Restore& restore = restores_[number];
  Vmm& vmm = *restore.vmm;
  const bool has_reason = store_.has_failed() || server_.has_lied() || restore.is_given_up;
  if (vmm.was_killed_in_vain() ||
      (vmm.was_killed() && !has_reason && !processes_->nobody_served())) {
    schedule_.violate("a VM was killed for no reason: " + report(number).outcome);
  }
  if (vmm.was_refused() && !has_reason && !processes_->was_restarted()) {
    schedule_.violate("a VMM has come in vain");
  }
  if (vmm.exited()) return;
  const auto ending = static_cast<Ending>(schedule_.random().below(3));
  // The vCPUs of one that nobody serves wait to their end.
  if (ending == Ending::kExit || restore.is_given_up) return vmm.exit();
  if (ending == Ending::kFarewell) {
    return vmm.can_say_farewell() ? vmm.say_farewell() : vmm.exit();
  }
  processes_->ask([&](Handler& handler) { handler.kill_vm(*restore.session); });
}

bool World::end_sessions() {
  // What is asked for by then was given back meanwhile, and comes all the same.
  if (!go_on_until("the end of all requests", kMostRecovery, [this] {
        return all_alive([this](std::size_t i) { return report(i).waiting_pages == 0; });
      })) {
    return false;
  }
  for (std::size_t i = 0; i < restores_.size(); ++i) end_session(i);
  // Some VMMs have gone before they came, and some clients did not hear of their sessions.
  processes_->ask([](Handler& handler) { handler.stop_prepared(); });
  return go_on_until("the sessions' end", kMostEnd, [this] {
    const Handler* const handler = processes_->handler();
    return handler != nullptr && !handler->has_sessions();
  });
}

bool World::end_handler() {
  if (!server_.nothing_is_pinned(snapshot_.image->manifest.snapshot) &&
      !go_on_until("the unpinning of the snapshot", kMostEnd, [this] {
        return server_.nothing_is_pinned(snapshot_.image->manifest.snapshot);
      })) {
    return false;
  }
  processes_->ask([](Handler& handler) { handler.close(); });
  if (!go_on_until("the handler's end", kMostEnd,
                   [this] { return processes_->handler()->closed(); })) {
    return false;
  }
  processes_->stop();
  if (!go_on_until("the supervisor's end", kMostEnd, [this] { return processes_->stopped(); })) {
    return false;
  }
  processes_->end();
  processes_.reset();
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
