#pragma once

#include <functional>
#include <utility>

#include "faulthandler/worker_pool.h"

namespace thaw {

/// Something that its owner has done on a worker now and then, one at a time: a look at files that
/// must not keep the loop from a demand. For the loop's thread. It must not be destroyed while it
/// is active().
class WorkerTask final : private WorkerPool::Job {
 public:
  /// `work` runs on a worker, then `done` on the loop's thread.
  WorkerTask(std::function<void()> work, std::function<void()> done)
      : work_(std::move(work)), done_(std::move(done)) {}
  WorkerTask(const WorkerTask&) = delete;
  WorkerTask& operator=(const WorkerTask&) = delete;
  virtual ~WorkerTask() = default;

  bool active() const { return active_; }
  /// REQUIRES: not active().
  void start(WorkerPool& workers) {
    active_ = true;
    workers.add(*this);
  }
  /// What has not begun never will; `done` is called for what has.
  void cancel(WorkerPool& workers) {
    if (active_ && workers.take_back(*this)) active_ = false;
  }

 private:
  void work(WorkerPool::Tools&) override { work_(); }
  void on_done() override {
    active_ = false;
    done_();
  }

  const std::function<void()> work_;
  const std::function<void()> done_;
  bool active_ = false;
};

}  // namespace thaw
