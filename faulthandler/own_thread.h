#pragma once

#include <functional>
#include <memory>

#include "faulthandler/loop.h"
#include "faulthandler/worker_task.h"

namespace thaw {

/// The thread of one session whose system calls take long, so that no other session waits for them.
/// It is made when it is first needed, and does one piece of work at a time. For the loop's thread.
/// It must not be destroyed while it is active().
class OwnThread {
 public:
  /// `work` runs on the thread, then `done` on the loop's.
  OwnThread(Loop& loop, std::function<void()> work, std::function<void()> done)
      : loop_(loop), work_(std::move(work)), done_(std::move(done)) {}
  OwnThread(const OwnThread&) = delete;
  OwnThread& operator=(const OwnThread&) = delete;

  bool active() const { return task_.active() || watching_.active(); }
  /// Where the system has no thread for it, both are called at once. REQUIRES: not active().
  void start();

 private:
  /// On the thread.
  void run();
  void on_wakeup(int result);

  Loop& loop_;
  const std::function<void()> work_;
  const std::function<void()> done_;
  bool refused_ = false;   // a thread
  bool ordinary_ = false;  // the thread's: it has given up what the loop's thread has
  Operation watching_{[this](int result) { on_wakeup(result); }};
  WorkerTask task_{[this] { run(); }, [this] { done_(); }};
  std::unique_ptr<WorkerPool> thread_;  // of one; the last member: it uses the task
};

}  // namespace thaw
