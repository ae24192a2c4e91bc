#include "vmm-client/restore_pool.h"

#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/cpu.h"
#include "vmm-client/limits.h"

namespace thaw {

/// What the pool, its thread and its restored VMs have in common. Locks itself.
struct RestorePool::State {
  State(std::unique_ptr<ShellFactory> shells, PoolSize limits)
      : factory(std::move(shells)), size(limits) {
    idle.reserve(size.max);
  }

  const std::unique_ptr<ShellFactory> factory;
  const PoolSize size;

  mutable std::mutex mutex;
  std::condition_variable_any changed;
  std::vector<std::unique_ptr<Shell>> idle;  // guarded by mutex, as all that follows
  std::size_t being_made = 0;
  std::size_t in_use = 0;
  std::optional<Error> replenish_error;

  bool full() const { return idle.size() + being_made + in_use >= size.max; }
  bool lacks(std::size_t wanted) const { return idle.size() + being_made < wanted && !full(); }

  /// Changes what is guarded and tells those who wait.
  template <typename Change>
  void update(Change change) {
    {
      const std::lock_guard lock(mutex);
      change();
    }
    changed.notify_all();
  }

  /// Counts a place as in use. The shell is null when none was idle.
  Result<std::unique_ptr<Shell>> take();
  /// Counts a shell as being made, if fewer than `wanted` are idle and there is room. Waits for
  /// those that others are making.
  bool begin_to_warm(std::size_t wanted, Deadline deadline);
  /// Adds an idle shell. REQUIRES: it was counted as being made.
  Result<void> make_idle();
  void replenish(const std::stop_token& stop);
};

Result<std::unique_ptr<Shell>> RestorePool::State::take() {
  {
    const std::lock_guard lock(mutex);
    std::unique_ptr<Shell> shell;
    if (!idle.empty()) {
      shell = std::move(idle.back());
      idle.pop_back();
    }
    if (shell != nullptr || !full()) {
      ++in_use;
      return shell;
    }
  }
  return fail(ErrorCode::kLimitExceeded, "all {} shells of the pool are in use or being made",
              size.max);
}

bool RestorePool::State::begin_to_warm(std::size_t wanted, Deadline deadline) {
  std::unique_lock lock(mutex);
  changed.wait_until(lock, deadline.when(),
                     [&] { return idle.size() >= wanted || being_made == 0 || lacks(wanted); });
  if (idle.size() >= wanted || !lacks(wanted)) return false;
  ++being_made;
  return true;
}

Result<void> RestorePool::State::make_idle() {
  PhaseTimer unobserved;
  auto shell = factory->create(unobserved);
  CHECK(!shell || *shell != nullptr);
  update([&] {
    --being_made;
    if (shell) idle.push_back(*std::move(shell));
  });
  if (!shell) return std::unexpected(std::move(shell).error());
  return {};
}

void RestorePool::State::replenish(const std::stop_token& stop) {
  take_long_turns();
  std::unique_lock lock(mutex);
  while (changed.wait(lock, stop, [this] { return lacks(size.min); }) && !stop.stop_requested()) {
    ++being_made;
    lock.unlock();
    const auto made = make_idle();
    lock.lock();
    replenish_error.reset();
    if (made) continue;
    replenish_error = made.error();
    changed.wait_for(lock, stop, limits::kReplenishPause, [] { return false; });
  }
}

RestorePool::Place::~Place() {
  if (pool_ == nullptr) return;  // moved from
  pool_->update([this] { --pool_->in_use; });
}

Result<std::unique_ptr<RestorePool>> RestorePool::create(std::unique_ptr<ShellFactory> factory,
                                                         PoolSize size) {
  if (size.max == 0 || size.max > limits::kMaxShells || size.min > size.max) {
    return fail(ErrorCode::kInvalidArgument, "a pool of {} to {} shells, not 1 to {}", size.min,
                size.max, limits::kMaxShells);
  }
  auto state = std::make_shared<State>(std::move(factory), size);
  return std::unique_ptr<RestorePool>(new RestorePool(std::move(state)));
}

RestorePool::RestorePool(std::shared_ptr<State> state)
    : state_(std::move(state)),
      thread_([pool = state_.get()](const std::stop_token& stop) { pool->replenish(stop); }) {}

RestorePool::~RestorePool() {
  thread_.request_stop();
  thread_.join();
  std::vector<std::unique_ptr<Shell>> idle;
  state_->update([&] { idle.swap(state_->idle); });
}

Result<std::size_t> RestorePool::warm(std::size_t target) {
  const Deadline deadline = Deadline::after(limits::kWarmWait);
  for (std::size_t made = 0; made < target && state_->begin_to_warm(target, deadline); ++made) {
    TRY(state_->make_idle());
  }
  return idle_count();
}

Result<RestoredVm> RestorePool::restore(const RestoreSource& source, Deadline deadline) {
  PhaseTimer phases;
  phases.begin("shell");
  std::unique_ptr<Shell> idle = TRY(state_->take());
  // A failure destroys the shell before its place is free.
  Place place(state_);
  std::unique_ptr<Shell> shell = std::move(idle);
  const ShellOrigin origin = shell != nullptr ? ShellOrigin::kPooled : ShellOrigin::kOnDemand;
  if (shell == nullptr) shell = TRY(state_->factory->create(phases));
  CHECK(shell != nullptr);
  TRY(shell->restore(source, deadline, phases));
  state_->changed.notify_all();  // only now may making the next shell take CPU time
  return RestoredVm(std::move(place), std::move(shell), {origin, phases.finish()});
}

PoolReport RestorePool::report() const {
  const std::lock_guard lock(state_->mutex);
  return {state_->idle.size(), state_->being_made, state_->in_use, state_->replenish_error};
}

}  // namespace thaw
