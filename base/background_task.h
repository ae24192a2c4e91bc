#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace thaw {

/// Work that may block (reading files, say) and that a thread which must not block asks for. Runs
/// it on a thread of its own, once after each request; requests that come while it runs are one.
/// Destruction waits for a run that has begun. Locks itself.
class BackgroundTask {
 public:
  explicit BackgroundTask(std::function<void()> run);
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  void request();

 private:
  void run_when_asked(const std::stop_token& stop);

  const std::function<void()> run_;
  std::mutex mutex_;
  std::condition_variable_any requested_;
  bool asked_ = false;   // guarded by mutex_
  std::jthread thread_;  // the last member: it uses the others
};

}  // namespace thaw
