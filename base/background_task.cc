#include "base/background_task.h"

#include <utility>

namespace thaw {

BackgroundTask::BackgroundTask(std::function<void()> run)
    : run_(std::move(run)),
      thread_([this](const std::stop_token& stop) { run_when_asked(stop); }) {}

void BackgroundTask::request() {
  {
    const std::lock_guard lock(mutex_);
    asked_ = true;
  }
  requested_.notify_one();
}

void BackgroundTask::run_when_asked(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (requested_.wait(lock, stop, [this] { return asked_; })) {
    asked_ = false;
    lock.unlock();
    run_();
    lock.lock();
  }
}

}  // namespace thaw
