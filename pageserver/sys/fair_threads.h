#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "pageserver/fair_queue.h"

namespace thaw {

/// Threads that do the work of many tenants in fair turns (FairQueue). Each connection has at most
/// one piece of work here, so connections bound the queue. Locks itself.
class FairThreads {
 public:
  using Work = std::move_only_function<void()>;

  struct Limits {
    unsigned threads;
    unsigned of_identity;           // that one identity's work may occupy
    bool takes_long_turns = false;  // of a CPU: for work that takes long
  };
  /// Throws std::system_error where the system gives no thread.
  explicit FairThreads(Limits limits);
  FairThreads(const FairThreads&) = delete;
  FairThreads& operator=(const FairThreads&) = delete;
  ~FairThreads() { join(); }

  void submit(const Tenant& tenant, Work work);
  /// Waits until all work is done, and ends the threads. Nothing may be submitted afterwards.
  void join();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  FairQueue<Work> queue_;  // guarded by mutex_
  bool ending_ = false;    // guarded by mutex_
  std::vector<std::jthread> threads_;
};

}  // namespace thaw
