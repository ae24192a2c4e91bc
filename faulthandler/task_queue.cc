#include "faulthandler/task_queue.h"

#include <utility>

#include "base/event_fd.h"

namespace thaw {

Result<std::unique_ptr<TaskQueue>> TaskQueue::create() {
  UniqueFd wakeup = TRY(create_event_fd());
  return std::unique_ptr<TaskQueue>(new TaskQueue(std::move(wakeup)));
}

Result<void> TaskQueue::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return fail(ErrorCode::kStopped, "the fault handler ends");
    if (tasks_.size() >= limits::kMaxPostedTasks) {
      return fail(ErrorCode::kLimitExceeded, "{} commands are waiting already", tasks_.size());
    }
    tasks_.push_back(std::move(task));
  }
  signal_event_fd(wakeup_);
  return {};
}

void TaskQueue::run_all() {
  clear_event_fd(wakeup_);
  std::deque<std::function<void()>> due;
  {
    const std::lock_guard lock(mutex_);
    due.swap(tasks_);
  }
  for (const auto& task : due) task();
}

void TaskQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

bool TaskQueue::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace thaw
