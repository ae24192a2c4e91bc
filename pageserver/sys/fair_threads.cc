#include "pageserver/sys/fair_threads.h"

#include <utility>

#include "base/cpu.h"

namespace thaw {

FairThreads::FairThreads(Limits limits) : queue_(limits.of_identity) {
  try {
    for (unsigned i = 0; i < limits.threads; ++i) {
      threads_.emplace_back([this, limits] {
        if (limits.takes_long_turns) take_long_turns();
        run();
      });
    }
  } catch (...) {
    join();
    throw;
  }
}

void FairThreads::submit(const Tenant& tenant, Work work) {
  const std::lock_guard lock(mutex_);
  queue_.push(tenant, std::move(work));
  changed_.notify_one();
}

void FairThreads::join() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  threads_.clear();
}

void FairThreads::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    auto turn = queue_.take();
    if (!turn) {
      if (ending_) return;
      changed_.wait(lock);
      continue;
    }
    lock.unlock();
    const Clock::time_point begun = Clock::now();
    std::exchange(turn->work, nullptr)();
    const Nanoseconds took = Clock::now() - begun;
    lock.lock();
    queue_.finished(turn->tenant, took);
  }
}

}  // namespace thaw
