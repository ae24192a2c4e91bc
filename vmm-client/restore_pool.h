#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "vmm-client/restore_profile.h"
#include "vmm-client/shell.h"

namespace thaw {

/// How many shells a pool has. A thread of the pool makes new ones while fewer than `min` are
/// idle, as far as `max` allows, which counts idle shells, restored VMs, and shells being made.
struct PoolSize {
  std::size_t min = 0;
  std::size_t max = 0;
};

/// A pool at one moment.
struct PoolReport {
  std::size_t idle = 0;
  std::size_t being_made = 0;  // for the pool
  std::size_t in_use = 0;      // restored VMs, and restores under way
  /// Why the pool's thread failed to make a shell the last time it tried.
  std::optional<Error> replenish_error;
};

class RestoredVm;

/// Empty VM shells, made before they are needed, so that a restore costs only what depends on its
/// snapshot. No shell is used twice: when a restored VM is released it is destroyed, and the
/// pool's thread makes a new shell.
///
/// Any thread. Nothing is locked while the factory or a shell is at work.
class RestorePool {
 public:
  /// Begins to make `min` shells. kInvalidArgument: no shell at all, more than
  /// limits::kMaxShells, or less room than `min`.
  static Result<std::unique_ptr<RestorePool>> create(std::unique_ptr<ShellFactory> factory,
                                                     PoolSize size);
  RestorePool(const RestorePool&) = delete;
  RestorePool& operator=(const RestorePool&) = delete;
  /// Destroys the idle shells, after waiting for the one that is being made. Restored VMs live on,
  /// and with them the factory. REQUIRES: no call is under way.
  ~RestorePool();

  /// Makes shells, at most `target`, until so many are idle or there is no room, and waits at most
  /// limits::kWarmWait for those that others are making. Returns how many are idle now. The
  /// factory's errors; what was made before stays.
  Result<std::size_t> warm(std::size_t target);

  /// Turns an idle shell, or one made now if none is idle, into a VM. kLimitExceeded when there is
  /// no room for another; the errors of factory and shell, after which the shell is gone and its
  /// place free.
  Result<RestoredVm> restore(const RestoreSource& source, Deadline deadline);

  std::size_t idle_count() const { return report().idle; }
  PoolReport report() const;

 private:
  friend class RestoredVm;
  struct State;
  /// One of the places of the pool, in use until this is destroyed.
  class Place {
   public:
    explicit Place(std::shared_ptr<State> pool) : pool_(std::move(pool)) {}
    Place(Place&&) = default;
    Place& operator=(Place&&) = delete;
    ~Place();

   private:
    std::shared_ptr<State> pool_;
  };

  explicit RestorePool(std::shared_ptr<State> state);

  const std::shared_ptr<State> state_;  // shared with the restored VMs
  std::jthread thread_;                 // the last member: it uses the other
};

/// A restored VM and its place in the pool; destroying this destroys the VM, which takes as long as
/// the shell's destructor (see GuestMemory), and frees the place.
/// May outlive the pool. One thread at a time.
class RestoredVm {
 public:
  RestoredVm(RestoredVm&&) = default;
  RestoredVm& operator=(RestoredVm&&) = delete;

  Shell& shell() { return *shell_; }
  /// The shell as what it is. REQUIRES: the factory makes shells of this type.
  template <typename Type>
  Type& as() {
    auto* const shell = dynamic_cast<Type*>(shell_.get());
    CHECK(shell != nullptr);
    return *shell;
  }
  const RestoreProfile& profile() const { return profile_; }

 private:
  friend class RestorePool;
  RestoredVm(RestorePool::Place place, std::unique_ptr<Shell> shell, RestoreProfile profile)
      : place_(std::move(place)), shell_(std::move(shell)), profile_(std::move(profile)) {}

  RestorePool::Place place_;  // the first member: it is free when the shell is gone
  std::unique_ptr<Shell> shell_;
  RestoreProfile profile_;
};

}  // namespace thaw
