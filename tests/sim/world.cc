#include "tests/sim/world.h"

#include "tests/support/store_of.h"

namespace thaw::sim {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kMostTrouble{6000};  // how long the world is bad
/// Within which all that waits goes on once the world is well: the longest of the handler's
/// patiences one after the other.
constexpr seconds kMostRecovery{40};
/// The same for memory that nobody waits for: a recording goes before it.
const Nanoseconds kMostCompletion = kMostRecovery + limits::kFirstTouchPatience;
constexpr seconds kMostEnd{15};
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
          .removals = some(12),
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
      server_(network_, store_, snapshot_.image->origin.store),
      handler_options_(draw_handler()),
      listener_(std::make_shared<UnixListener>(machine_)),
      vmm_(machine_, snapshot_, draw_vmm(schedule_.random())) {
  machine_.set_tcp([this] { return network_.make_socket(); });
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
  if (random.chance(100)) {
    schedule_.after(random.duration(kMostTrouble), [this] { vmm_.exit(); });
  }
}

void World::heal() {
  schedule_.note("all is well again");
  network_.heal();
  store_.heal();
  server_.come_back();
}

bool World::restore() {
  handler_ = std::make_unique<Handler>(machine_, snapshot_, handler_options_, listener_);
  schedule_.after(schedule_.random().duration(milliseconds(20)),
                  [this] { vmm_.start(*listener_); });
  plan_outages();
  schedule_.after(schedule_.random().duration(kMostTrouble), [this] { heal(); });
  return go_on_until(
             "the end of the trouble", kMostTrouble + milliseconds(1),
             [this, end = schedule_.now() + kMostTrouble] { return schedule_.now() >= end; }) &&
         go_on_until("the guest's going on", kMostRecovery,
                     [this] { return vmm_.finished() || vmm_.exited(); });
}

bool World::read_everything() {
  if (vmm_.exited()) return true;
  vmm_.read_all();
  if (!go_on_until("the guest's reading of all its memory", kMostRecovery,
                   [this] { return vmm_.finished() || vmm_.exited(); })) {
    return false;
  }
  const bool completes = handler_options_.hydrate_bytes_per_s > 0 && !vmm_.exited();
  return !completes || go_on_until("the memory's being complete", kMostCompletion, [this] {
    return vmm_.exited() || handler_->report().state == SessionState::kDetached;
  });
}

bool World::end_session() {
  // What is asked for by then was given back meanwhile, and comes all the same.
  if (!go_on_until("the end of all requests", kMostRecovery,
                   [this] { return vmm_.exited() || handler_->report().waiting_pages == 0; })) {
    return false;
  }
  if (vmm_.was_killed() && !store_.has_failed()) {
    schedule_.violate("the VM was killed for no reason: " + handler_->report().outcome);
  }
  if (!schedule_.violation().empty()) return false;
  const bool alive = !vmm_.exited();
  // It may have exited before it came.
  if (!alive && handler_->has_session()) handler_->kill_vm();
  switch (static_cast<Ending>(schedule_.random().below(3))) {
    case Ending::kExit:
      vmm_.exit();
      break;
    case Ending::kKilledByOperator:
      if (alive) handler_->kill_vm();
      break;
    case Ending::kFarewell:
      if (!vmm_.can_say_farewell()) {
        vmm_.exit();
      } else {
        vmm_.say_farewell();
      }
      break;
  }
  return go_on_until("the session's end", kMostEnd, [this] { return !handler_->has_session(); });
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
  if (restore() && read_everything() && end_session()) end_handler();
}

Outcome World::outcome() const {
  return {schedule_.violation(), schedule_.trace_hash(), schedule_.steps()};
}

Outcome run_seed(std::uint64_t seed, const std::vector<StoredSnapshot>& snapshots, Trace trace) {
  auto world = std::make_unique<World>(seed, snapshots, trace);
  world->run();
  const Outcome outcome = world->outcome();
  if (!outcome.violation.empty()) world.release()->abandon();
  return outcome;
}

}  // namespace thaw::sim
