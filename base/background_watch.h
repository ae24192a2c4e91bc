#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include <sys/types.h>

#include "base/cpu.h"
#include "base/error.h"

namespace thaw {

/// A thread in the background class may wait for its CPU for seconds, as soon as other threads keep
/// that CPU busy. It cannot leave the class meanwhile, because it does not run.
///
/// This class takes such a thread out of the background class from a thread of its own: when it
/// starves, and when it has not run for a while, since what wakes it then would find it there.
/// `watching()` then tells the thread that it is an ordinary one again.
class BackgroundWatch {
 public:
  /// `thread`, of this process, has to outlive the watch. kLimitExceeded if no thread can start.
  static Result<std::unique_ptr<BackgroundWatch>> start(pid_t thread);
  BackgroundWatch(const BackgroundWatch&) = delete;
  BackgroundWatch& operator=(const BackgroundWatch&) = delete;
  ~BackgroundWatch();

  // The watched thread.

  /// It has entered the background class.
  void begin();
  /// It has left that class by itself.
  void end() { watching_.store(false); }
  /// False once it was taken out of the class.
  bool watching() const { return watching_.load(); }
  /// Whether it starved when it was taken out.
  bool starved() const { return starved_.load(); }

 private:
  explicit BackgroundWatch(pid_t thread) : thread_(thread) {}
  void watch();
  void watch_background();

  const pid_t thread_;
  std::atomic<bool> watching_ = false;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> starved_ = false;
  std::jthread watcher_;
};

}  // namespace thaw
