#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/limits.h"

namespace thaw {

/// Tasks that other threads hand to a loop's thread: a bounded queue, and an eventfd that the loop
/// polls. Locks itself; no lock is held while a task runs.
class TaskQueue {
 public:
  static Result<std::unique_ptr<TaskQueue>> create();

  /// kLimitExceeded when the queue is full, kStopped when it is closed.
  Result<void> post(std::function<void()> task);
  /// Has a task run on the loop's thread and waits for its result. kTimeout: it has not been begun
  /// and never will be. kStopped when the queue is closed.
  template <typename T>
  Result<T> run(std::function<Result<T>()> task);

  const UniqueFd& wakeup() const { return wakeup_; }
  /// Runs what was posted. On the loop's thread, when wakeup() is readable.
  void run_all();
  /// Nothing is run any more.
  void close();
  bool closed() const;

 private:
  explicit TaskQueue(UniqueFd wakeup) : wakeup_(std::move(wakeup)) {}

  const UniqueFd wakeup_;
  mutable std::mutex mutex_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool closed_ = false;                      // guarded by mutex_
};

template <typename T>
Result<T> TaskQueue::run(std::function<Result<T>()> task) {
  struct Run {
    std::function<Result<T>()> task;
    std::atomic<bool> taken = false;  // by the loop, to run it, or by the waiter, to give it up
    std::promise<Result<T>> result;
  };
  const auto run = std::make_shared<Run>();
  run->task = std::move(task);
  auto result = run->result.get_future();
  TRY(post([run] {
    if (!run->taken.exchange(true)) run->result.set_value(run->task());
  }));
  const Deadline deadline = Deadline::after(limits::kControlTimeout);
  while (result.wait_for(limits::kControlInterval) != std::future_status::ready) {
    if (closed()) return fail(ErrorCode::kStopped, "the fault handler ends");
    // A task that has begun comes to its end, and what it did must be known.
    if (!deadline.passed() || run->taken.exchange(true)) continue;
    return fail(ErrorCode::kTimeout, "the fault handler's loop did not answer");
  }
  return result.get();
}

}  // namespace thaw
