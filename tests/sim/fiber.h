#pragma once

#include <functional>
#include <memory>

#include <ucontext.h>

namespace thaw::sim {

/// A thread of the simulated handler: code that can stand still in the midst of a call while others
/// go on. It runs only inside resume(), on the thread that calls it.
class Fiber {
 public:
  explicit Fiber(std::function<void()> run);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  /// Goes on until it yields or ends. REQUIRES: not done(), and not from itself.
  void resume();
  /// Stands still until it is resumed. REQUIRES: called by the fiber itself.
  void yield();
  bool done() const { return done_; }

 private:
  static void enter(unsigned high, unsigned low);

  std::function<void()> run_;
  std::unique_ptr<std::byte[]> stack_;
  ucontext_t fiber_{};
  ucontext_t caller_{};
  // What AddressSanitizer has to know of the stacks.
  void* fiber_shadow_ = nullptr;
  void* caller_shadow_ = nullptr;
  const void* caller_stack_ = nullptr;
  std::size_t caller_stack_bytes_ = 0;
  bool done_ = false;
};

}  // namespace thaw::sim
