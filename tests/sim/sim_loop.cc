#include "tests/sim/sim_loop.h"

#include <algorithm>
#include <cerrno>

namespace thaw::sim {

namespace {

/// From what wakes the loop to its turn, mostly; and now and then, on a busy host.
constexpr std::chrono::microseconds kTurnDelay{40};
constexpr std::chrono::milliseconds kLateTurnDelay{100};

}  // namespace

SimLoop::SimLoop(Machine& machine)
    : machine_(machine),
      process_(machine.process()),
      watcher_(machine.add_watcher([this] { look_soon(); })) {}

SimLoop::~SimLoop() {
  *alive_ = false;
  machine_.remove_watcher(watcher_);
}

void SimLoop::look_soon() {
  if (turn_is_due_) return;
  turn_is_due_ = true;
  const Nanoseconds most = machine_.random().chance(5) ? Nanoseconds(kLateTurnDelay) : kTurnDelay;
  machine_.schedule().after(machine_.random().duration(most), [this, alive = alive_] {
    if (*alive) turn();
  });
}

void SimLoop::finish() {
  for (const Pending& pending : std::exchange(pending_, {})) {
    pending.operation->complete(-ECANCELED);
  }
  if (!pending_.empty()) machine_.schedule().violate("an operation begins at the loop's end");
}

void SimLoop::abandon() {
  *alive_ = false;
  machine_.remove_watcher(watcher_);
  pending_.clear();
}

void SimLoop::turn() {
  turn_is_due_ = false;
  machine_.run_in(process_, [this] { complete_all(); });
}

void SimLoop::complete_all() {
  struct Completion {
    Operation* operation;
    int result;
  };
  // All results are taken before the first is told, as they lie in a completion queue.
  std::vector<Completion> completions;
  std::erase_if(pending_, [&](Pending& pending) {
    auto result = pending.attempt();
    if (!result && pending.cancelled) result = -ECANCELED;
    if (result) completions.push_back({pending.operation, *result});
    return result.has_value();
  });
  if (completions.empty()) return;
  machine_.random().shuffle(completions);
  for (const Completion& completion : completions) {
    completion.operation->complete(completion.result);
  }
  if (after_turn_) after_turn_();
  look_soon();
}

void SimLoop::begin(const UniqueFd& fd, Operation& operation,
                    std::function<std::optional<int>(File&)> attempt) {
  operation.begin();
  const std::shared_ptr<File> file = machine_.file(fd.get());
  if (file == nullptr) machine_.schedule().violate("an operation on no descriptor");
  pending_.push_back({&operation, file, [file, attempt = std::move(attempt)] {
                        return file != nullptr ? attempt(*file) : -EBADF;
                      }});
  look_soon();
}

void SimLoop::poll(const UniqueFd& fd, short events, Operation& operation) {
  begin(fd, operation, [events](const File& file) -> std::optional<int> {
    const int there = file.ready() & events;
    return there != 0 ? std::optional(there) : std::nullopt;
  });
}

void SimLoop::receive(const UniqueFd& socket, MutableByteSpan to, Operation& operation) {
  begin(socket, operation, [to](File& file) { return file.receive(to); });
}

void SimLoop::send(const UniqueFd& socket, ByteSpan from, Operation& operation) {
  begin(socket, operation, [from](File& file) { return file.send(from); });
}

void SimLoop::connect(const UniqueFd& socket, const TcpAddress&, Operation& operation) {
  begin(socket, operation, [](File& file) { return file.connected(); });
  if (pending_.back().file != nullptr) pending_.back().file->begin_connect();
}

void SimLoop::wait(Nanoseconds duration, Operation& operation) {
  operation.begin();
  Schedule& schedule = machine_.schedule();
  const auto due = schedule.now() + std::max(duration, Nanoseconds(0));
  pending_.push_back({&operation, nullptr, [&schedule, due] {
                        return schedule.now() >= due ? std::optional(-ETIME) : std::nullopt;
                      }});
  schedule.after(due - schedule.now(), [this, alive = alive_] {
    if (*alive) look_soon();
  });
}

void SimLoop::cancel(Operation& operation) {
  const auto found = std::ranges::find(pending_, &operation, &Pending::operation);
  if (found == pending_.end()) return;
  found->cancelled = true;
  look_soon();
}

void SimLoop::run(const Turn&) { machine_.schedule().violate("nobody runs a simulated loop"); }

void SimLoop::stop() { machine_.schedule().violate("nobody stops a simulated loop"); }

}  // namespace thaw::sim
