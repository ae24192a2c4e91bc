#pragma once

#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "base/cpu.h"
#include "base/error.h"
#include "faulthandler/placement_policy.h"

namespace thaw {

struct PlacementOptions {
  enum class Mode { kFollow, kFree, kCpu };
  Mode mode = Mode::kFollow;
  int cpu = 0;                      // for kCpu
  std::optional<Nanoseconds> spin;  // nothing: by itself
};
/// "follow", "free" or a CPU's number; kInvalidArgument.
Result<PlacementOptions> parse_placement(const std::string& text);
/// "auto" or microseconds; kInvalidArgument.
Result<std::optional<Nanoseconds>> parse_spin(const std::string& text);

/// Keeps the loop's thread where the faults come from. Looks are taken by a thread of its own,
/// which sleeps while there are no faults, so that the path of a fault has nothing but two atomic
/// stores of it, and a loop that starves in the background class is helped out from outside.
/// The loop's thread makes it and calls it, spin() included.
class Placement {
 public:
  explicit Placement(const PlacementOptions& options);
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
  ~Placement();

  void on_restore();
  void on_faults(pid_t vmm) {
    vmm_.store(vmm, std::memory_order_relaxed);
    faults_.fetch_add(1, std::memory_order_relaxed);
    if (resting_.load(std::memory_order_relaxed)) wake();
  }
  /// Whether threads of this process do bulk work: they would keep a loop in the background class
  /// waiting, and one that spins would keep them from their work, so it does neither meanwhile.
  void set_bulk_work(bool any) { bulk_work_.store(any, std::memory_order_relaxed); }
  /// Around each turn of the loop.
  void before_turn() { turn_start_.store(Clock::now(), std::memory_order_relaxed); }
  void after_turn();
  /// How long to look for more before sleeping.
  Nanoseconds spin() const { return spin_.load(std::memory_order_relaxed); }

 private:
  void wake();
  void watch();
  /// Looks until there has been no fault for a while.
  void watch_activity();
  PlacementPolicy::Look look();
  /// How long the loop had to queue, since the last look, before it could begin a turn. In a turn
  /// it may well have to wait: what preempts it then is most often the vCPU that it has woken.
  Nanoseconds queued_for_turns();
  /// Looks for the CPU where at least four of five of the VMM's wake-ups since the last examination
  /// happened.
  void examine(pid_t vmm, PlacementPolicy::Look& look);
  void apply(const PlacementPolicy::Decision& decision);

  const PlacementOptions options_;
  const pid_t loop_;

  std::atomic<pid_t> vmm_ = 0;  // the last that had a fault
  std::atomic<std::uint64_t> faults_ = 0;
  std::atomic<bool> resting_ = true;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> restored_ = false;
  std::atomic<bool> bulk_work_ = false;
  std::atomic<Nanoseconds> spin_;
  static_assert(std::atomic<Clock::time_point>::is_always_lock_free);
  std::atomic<Clock::time_point> turn_start_{};  // zero between two turns
  std::atomic<Nanoseconds> in_turns_{};          // time spent in those that have ended

  // Of the watching thread.
  PlacementPolicy policy_{PlacementPolicy::May::kSpinAlone};
  ThreadPlace place_;  // of the loop
  bool following_ = false;
  std::uint64_t looks_ = 0;  // in this activity
  std::uint64_t faults_seen_ = 0;
  pid_t vmm_seen_ = 0;
  ThreadTimes times_seen_;
  StarvationWatch starvation_;
  Nanoseconds in_turns_seen_{0};
  std::map<pid_t, std::uint64_t> sleeps_seen_;  // by thread of vmm_seen_
  pid_t hot_thread_ = 0;                        // the one that slept most often
  std::jthread watcher_;
};

}  // namespace thaw
