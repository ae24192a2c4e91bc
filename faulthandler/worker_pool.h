#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/page_opener.h"
#include "format/pack.h"

namespace thaw {

/// Threads for bulk work, so that it never keeps the loop from a demand. Jobs are begun in their
/// order and come back to the loop's thread. All but Job::work() is for the loop's thread.
class WorkerPool {
 public:
  /// What each thread has for itself.
  struct Tools {
    PackCodec packs;
    PageOpener pages;
  };

  class Job {
   public:
    /// On a thread of the pool.
    virtual void work(Tools& tools) = 0;
    /// On the loop's thread, afterwards. The job may be destroyed in it.
    virtual void on_done() = 0;

   protected:
    ~Job() = default;
  };

  /// With fewer threads where the system allows no more; kLimitExceeded when it allows none.
  /// REQUIRES: threads > 0.
  static Result<std::unique_ptr<WorkerPool>> create(unsigned threads);
  ~WorkerPool();

  /// The job stays the caller's and must live until it was done or taken back.
  void add(Job& job);
  /// Has it begun before all others, if it has not begun yet.
  void hurry(Job& job);
  /// False: it was begun and will be done.
  bool take_back(Job& job);

  /// Whether jobs were added and not finished.
  bool busy() const { return under_way_ > 0; }
  /// Readable when a job is done.
  const UniqueFd& wakeup() const { return wakeup_; }
  /// Calls on_done() of those that are.
  void finish_done();

 private:
  explicit WorkerPool(UniqueFd wakeup);
  void run(const std::stop_token& stop);

  const UniqueFd wakeup_;
  std::mutex mutex_;
  std::condition_variable_any added_;
  std::deque<Job*> waiting_;  // guarded by mutex_
  std::vector<Job*> done_;    // guarded by mutex_
  std::vector<Job*> finishing_;
  std::size_t under_way_ = 0;
  std::vector<std::jthread> threads_;  // the last member: they use the others
};

}  // namespace thaw
