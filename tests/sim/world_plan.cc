// What goes wrong in a world, and when: all that is drawn from its seed.

#include <algorithm>

#include "tests/sim/world.h"

namespace thaw::sim {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kMostPreparation{20};  // before the VMM comes
constexpr milliseconds kMostEarlyDeath{500};  // in which VMs change their memory
/// Until the next handler where one cannot be had for long.
constexpr milliseconds kLongOutage{9900};
constexpr milliseconds kMostLongOutage{4000};
constexpr milliseconds kMostLateness{2000};  // of a VMM after VMs without a handler are dealt with
constexpr std::chrono::microseconds kMostLastMoment{300};  // from a promise to a death
constexpr milliseconds kPrepareAgain{10};                  // where no handler has answered

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
  if (deaths_ == 0) return;
  if (random.chance(300)) {
    const Nanoseconds delay = kLongOutage + random.duration(kMostLongOutage);
    schedule_.after(random.duration(kMostEarlyDeath),
                    [this, delay] { processes_->delay_next_handler(delay); });
  }
  const Nanoseconds when = random.duration(kMostTrouble / 2);
  if (random.chance(250)) schedule_.after(when, [this] { processes_->upgrade(); });
  if (random.chance(150)) schedule_.after(when, [this] { processes_->restart(); });
}

/// Some die between two turns, the others before or after a system call, soon after they began.
void World::plan_deaths() {
  Random& random = schedule_.random();
  for (std::uint64_t left = deaths_; left > 0; --left) {
    const Nanoseconds when =
        random.duration(random.chance(700) ? kMostEarlyDeath : kMostTrouble / 2);
    const auto calls = static_cast<unsigned>(random.below(60));
    if (random.chance(300)) {
      schedule_.after(when, [this] { processes_->kill_handler(); });
    } else {
      schedule_.after(when, [this, calls] { machine_.set_calls_until_death(calls); });
    }
  }
}

void World::plan_restores() {
  Random& random = schedule_.random();
  for (std::size_t i = 0; i < restores_.size(); ++i) {
    const Nanoseconds most = random.chance(200) ? kMostEarlyDeath : kMostPreparation;
    const Nanoseconds when = random.duration(most);
    schedule_.after(when, [this, i] { prepare(i); });
    if (!random.chance(150)) continue;
    schedule_.after(when + random.duration(kMostPreparation), [this, i] { give_up(i); });
  }
}

/// As clients do: who gets no answer tries again, as long as there is a VMM to come.
void World::prepare(std::size_t number) {
  const auto listener = std::make_shared<UnixListener>(machine_);
  std::optional<std::uint64_t> session;
  if (processes_->handler() != nullptr) {
    processes_->ask([&](Handler& handler) { session = handler.prepare(number, listener); });
  }
  if (!session) {
    return schedule_.after(kPrepareAgain, [this, number] {
      if (!restores_[number].vmm->exited()) prepare(number);
    });
  }
  restores_[number].session = session;
  if (deaths_ > 0 && schedule_.random().chance(150)) {
    // Its last word.
    schedule_.after(schedule_.random().duration(kMostLastMoment),
                    [this] { processes_->kill_handler(); });
  }
  schedule_.note("session {} is prepared", *session);
  Nanoseconds pause = schedule_.random().duration(kMostPreparation);
  // Perhaps only after those who had come were dealt with.
  if (deaths_ > 0 && schedule_.random().chance(100)) {
    pause += limits::kNobodyServes + schedule_.random().duration(kMostLateness);
  }
  schedule_.after(pause, [this, number, open = std::weak_ptr(listener)] {
    restores_[number].vmm->start(open);
  });
}

void World::give_up(std::size_t number) {
  Restore& restore = restores_[number];
  if (!restore.session || processes_->handler() == nullptr) return;
  // One that dies meanwhile may have ended it.
  bool stopped = true;
  processes_->ask([&](Handler& handler) { stopped = handler.stop(*restore.session); });
  restore.is_given_up = stopped;
  if (!stopped) return;
  schedule_.note("session {} is given up", *restore.session);
  if (deaths_ == 0 || !schedule_.random().chance(600)) return;
  // Of its VMM the service manager alone knows then.
  schedule_.after(schedule_.random().duration(2 * kMostPreparation),
                  [this] { processes_->restart(); });
}

void World::heal() {
  schedule_.note("all is well again");
  network_.heal();
  store_.heal();
  server_.come_back();
  server_.set_lies(0);
}

}  // namespace thaw::sim
