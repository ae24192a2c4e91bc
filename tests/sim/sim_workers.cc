// WorkerPool on simulated threads, linked instead of the handler's own: jobs are begun in their
// order, and are done after any time and in any order.

#include <algorithm>

#include "base/check.h"
#include "faulthandler/worker_pool.h"
#include "tests/sim/machine.h"
#include "tests/sim/signal_file.h"

namespace thaw {

using sim::Machine;

Result<std::unique_ptr<WorkerPool>> WorkerPool::create(unsigned) {
  UniqueFd wakeup(Machine::current().open(std::make_shared<sim::SignalFile>()));
  return std::unique_ptr<WorkerPool>(new WorkerPool(std::move(wakeup)));
}

WorkerPool::WorkerPool(UniqueFd wakeup) : wakeup_(std::move(wakeup)) {}

WorkerPool::~WorkerPool() { CHECK(under_way_ == 0); }

/// Each job has a thread of its own, which begins whatever job is first by then.
void WorkerPool::add(Job& job) {
  ++under_way_;
  waiting_.push_back(&job);
  Machine::current().start_thread(
      [this, signal = Machine::current().file_as<sim::SignalFile>(wakeup_.get())] {
        if (waiting_.empty()) return;  // it was taken back
        Job* const first = waiting_.front();
        waiting_.pop_front();
        Tools tools;
        first->work(tools);
        done_.push_back(first);
        signal->set(sim::SignalFile::State::kSet);
        Machine::current().notify();
      });
}

void WorkerPool::hurry(Job& job) {
  const auto found = std::ranges::find(waiting_, &job);
  if (found == waiting_.end()) return;
  waiting_.erase(found);
  waiting_.push_front(&job);
}

bool WorkerPool::take_back(Job& job) {
  const bool taken = std::erase(waiting_, &job) > 0;
  if (taken) --under_way_;
  return taken;
}

void WorkerPool::finish_done() {
  Machine::current().file_as<sim::SignalFile>(wakeup_.get())->set(sim::SignalFile::State::kCleared);
  finishing_.swap(done_);
  under_way_ -= finishing_.size();
  for (Job* const job : finishing_) job->on_done();
  finishing_.clear();
}

}  // namespace thaw
