#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <sys/types.h>

#include "base/clock.h"
#include "base/error.h"

namespace thaw {

/// Where threads run. A thread is named by its kernel id; 0 is the caller.

inline constexpr std::size_t kMaxCpus = 1024;
using CpuSet = std::bitset<kMaxCpus>;

pid_t this_thread_id();

/// CPUs the thread may run on. At a program's start: those it was given.
Result<CpuSet> allowed_cpus(pid_t thread);
/// kInvalidArgument when none of them is there or allowed by its cgroup; kNotFound when the thread
/// has ended.
Result<void> set_allowed_cpus(pid_t thread, const CpuSet& cpus);
/// REQUIRES: 0 <= cpu < kMaxCpus.
CpuSet only_cpu(int cpu);

/// How a thread competes for a CPU: like others, or only for what others leave (SCHED_IDLE). A CPU
/// that runs only such threads counts as idle when the scheduler places a thread that wakes up.
enum class SchedulingClass { kNormal, kBackground };
Result<void> set_scheduling_class(pid_t thread, SchedulingClass scheduling);
/// Has the calling thread run before ordinary ones whenever it has something to do, where the
/// process has the right to say so (CAP_SYS_NICE). For threads that answer what somebody waits for.
/// Threads that it starts afterwards are like it.
void take_precedence();
/// The contrary, and on any of these CPUs.
void give_up_precedence(const CpuSet& cpus);
/// Has the calling thread take long turns (Linux 6.12) and interrupt nobody when it wakes up. Its
/// share of the CPU stays what it is, but others that wake up need not wait for the end of its
/// turn. For threads that work through a queue beside others that somebody waits for.
void take_long_turns();
/// Whether a thread of this process may leave the background class again, which takes a right that
/// entering it does not. Tried on a thread that ends at once.
bool may_leave_background();

/// Keeps a thread on one CPU at a time, and gives it back its freedom. One thread uses it.
class ThreadPlace {
 public:
  /// What the thread is allowed now is what it goes back to.
  explicit ThreadPlace(pid_t thread);

  /// Where it is kept; nothing: anywhere.
  std::optional<int> cpu() const { return at_; }
  /// Whether there is any choice.
  bool has_choice() const { return allowed_.count() > 1; }
  bool allows(int cpu) const {
    return cpu >= 0 && static_cast<std::size_t>(cpu) < kMaxCpus &&
           allowed_[static_cast<std::size_t>(cpu)];
  }
  /// False when it did not go there. REQUIRES: allows(cpu).
  bool move(int cpu, SchedulingClass scheduling);
  /// As an ordinary thread, wherever it was allowed at first.
  void let_go();

 private:
  const pid_t thread_;
  CpuSet allowed_;
  std::optional<int> at_;
};

/// How long a thread of this process has run, and was ready to run and did not; from its schedstat.
struct ThreadTimes {
  Nanoseconds running{0};
  Nanoseconds queued{0};
};
Result<ThreadTimes> thread_times(pid_t thread);

/// Tells when a thread of this process starves. Its ThreadTimes do not say so before it is over:
/// time in a queue is counted when the thread runs again. One thread uses it.
class StarvationWatch {
 public:
  enum class Seen {
    kRan,      // since the look before
    kWaited,   // slept, or has just become ready
    kStarved,  // was ready at both looks, and has not run in between
  };
  explicit StarvationWatch(pid_t thread) : thread_(thread) { look(); }

  Seen look();

 private:
  const pid_t thread_;
  bool was_ready_ = false;
  Nanoseconds ran_{0};
};

/// What a thread has done so far, from schedstat and stat.
struct ThreadActivity {
  int cpu = 0;               // where it runs or last ran
  std::uint64_t sleeps = 0;  // times it was switched to, which is how often it slept, or more
};
Result<ThreadActivity> thread_activity(pid_t process, pid_t thread);

enum class ThreadState {
  kReady,    // runs or would
  kWaiting,  // sleeps, interruptibly or not, or is stopped
  kHeld,     // by a debugger
};
struct ThreadProgress {
  ThreadState state;
  Nanoseconds running;  // by now, on a CPU
};
Result<ThreadProgress> thread_progress(pid_t process, pid_t thread);

/// The process's threads, at most `most`; none when it has exited.
std::vector<pid_t> threads_of(pid_t process, std::size_t most);

}  // namespace thaw
