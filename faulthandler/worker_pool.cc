#include "faulthandler/worker_pool.h"

#include <algorithm>

#include "base/cpu.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/thread.h"

namespace thaw {

Result<std::unique_ptr<WorkerPool>> WorkerPool::create(unsigned threads) {
  std::unique_ptr<WorkerPool> pool(new WorkerPool(TRY(create_event_fd())));
  for (unsigned i = 0; i < threads; ++i) {
    auto thread = start_thread([&pool = *pool](const std::stop_token& stop) { pool.run(stop); });
    if (!thread && i == 0) return std::unexpected(thread.error());
    if (!thread) {
      log_warning("{} threads where {} are wanted: {}", i, threads, thread.error().message());
      break;
    }
    pool->threads_.push_back(*std::move(thread));
  }
  return pool;
}

WorkerPool::WorkerPool(UniqueFd wakeup) : wakeup_(std::move(wakeup)) {}

WorkerPool::~WorkerPool() = default;

void WorkerPool::add(Job& job) {
  ++under_way_;
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(&job);
  }
  added_.notify_one();
}

void WorkerPool::hurry(Job& job) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(waiting_, &job);
  if (found == waiting_.end()) return;
  waiting_.erase(found);
  waiting_.push_front(&job);
}

bool WorkerPool::take_back(Job& job) {
  const std::lock_guard lock(mutex_);
  const bool taken = std::erase(waiting_, &job) > 0;
  if (taken) --under_way_;
  return taken;
}

void WorkerPool::finish_done() {
  clear_event_fd(wakeup_);
  {
    const std::lock_guard lock(mutex_);
    finishing_.swap(done_);
  }
  under_way_ -= finishing_.size();
  for (Job* const job : finishing_) job->on_done();
  finishing_.clear();
}

void WorkerPool::run(const std::stop_token& stop) {
  take_long_turns();
  Tools tools;
  std::unique_lock lock(mutex_);
  while (added_.wait(lock, stop, [this] { return !waiting_.empty(); })) {
    Job* const job = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    job->work(tools);
    lock.lock();
    done_.push_back(job);
    if (done_.size() > 1) continue;
    lock.unlock();
    signal_event_fd(wakeup_);
    lock.lock();
  }
}

}  // namespace thaw
