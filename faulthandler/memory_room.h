#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/memory_limits.h"
#include "faulthandler/worker_task.h"

namespace thaw {

/// What favours may take before they look again, and which limit says so.
struct Allowance {
  ByteCount bytes;  // 0: they stop
  std::optional<MemoryLimit> tightest{};
};
/// The rule. A reserve of each limit stays for what the VM may still need, unless all of guest
/// memory that is `missing` fits: then what a favour brings is never asked for again.
Allowance allowance(std::span<const MemoryLimit> limits, ByteCount missing);

/// The memory that a VM's favours may take: prefetch, hydration, and what comes beside a demanded
/// page. Pages are charged to the VMM, so a favour that takes the last of its cgroup or of the
/// tmpfs behind its memory kills it. Demand does not ask here.
///
/// A look reads files under /proc and of the cgroup. It happens on a worker, grants a part of the
/// room, and counts for a second. In between favours only count what they take.
class MemoryRoom {
 public:
  /// `on_seen` is called on the loop's thread after each look that look() began.
  explicit MemoryRoom(std::function<void()> on_seen)
      : looking_([this] { look_now(); }, std::move(on_seen)) {}
  MemoryRoom(const MemoryRoom&) = delete;
  MemoryRoom& operator=(const MemoryRoom&) = delete;
  virtual ~MemoryRoom() = default;

  // The loop's thread.

  /// From now on there are limits: those of this process's memory; pid 0: of this process. Until
  /// the first look favours may take one grant of the smallest kind. No look begins before the file
  /// behind the memory is known.
  void begin(WorkerPool& workers, pid_t pid);
  void set_backing(BackingFile file);
  bool knows_backing() const { return knows_backing_.load(std::memory_order_relaxed); }
  /// Has a worker look, if none is. `missing`: guest memory that is not there.
  void look(ByteCount missing);
  /// The same when a favour found the room closed, or what was seen is about to be too old.
  void look_if_wanted(ByteCount missing) {
    if (wanted_.load(std::memory_order_relaxed)) look(missing);
  }
  /// The kernel had no memory, whatever was seen: there is no room for a while.
  void note_refusal();
  /// No favour takes anything until it is opened again, whatever room there is.
  void close() { closed_ = true; }
  void reopen() { closed_ = false; }
  /// May be destroyed once finished().
  void stop();
  bool finished() const { return !looking_.active(); }

  // Any thread. None of these allocates, locks or makes a system call.

  /// Whether a favour may take memory.
  bool open();
  void spend(ByteCount bytes) {
    credit_.fetch_sub(static_cast<std::int64_t>(bytes.value), std::memory_order_relaxed);
  }
  /// The same for zeros, which take memory only where a file is behind guest memory.
  bool open_for_zeros() { return !closed() && (!zeros_cost() || open()); }
  void spend_zeros(ByteCount bytes) {
    if (zeros_cost()) spend(bytes);
  }

  /// On a worker: looks if it has to.
  bool open_or_look();
  bool closed() const { return closed_.load(std::memory_order_relaxed); }
  bool zeros_cost() const { return zeros_cost_.load(std::memory_order_relaxed); }

  /// "the tmpfs behind guest memory" when the last look found less than a reserve there; else
  /// empty.
  std::string short_of() const;

 private:
  void look_now();
  std::shared_ptr<const MemoryLimits> limits();

  WorkerPool* workers_ = nullptr;  // nullptr: there are no limits
  pid_t pid_ = 0;
  std::atomic<bool> knows_backing_ = false;
  std::atomic<std::uint64_t> missing_ = 0;
  std::atomic<std::int64_t> credit_ = 0;
  std::atomic<Clock::rep> fresh_until_ = 0;
  std::atomic<Clock::rep> refused_until_ = 0;
  std::atomic<bool> wanted_ = false;
  std::atomic<bool> closed_ = false;
  std::atomic<bool> zeros_cost_ = true;
  WorkerTask looking_;

  mutable std::mutex mutex_;
  std::shared_ptr<const BackingFile> backing_;  // guarded by mutex_, as what follows
  std::shared_ptr<const MemoryLimits> limits_;
  std::optional<MemoryLimit> tightest_;
};

}  // namespace thaw
