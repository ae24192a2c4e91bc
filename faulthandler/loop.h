#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/socket.h"
#include "base/unique_fd.h"

namespace thaw {

/// One place for an asynchronous operation: at most one is under way in it at a time, and it must
/// not be destroyed until that one has completed. The callback gets what the system call would
/// return, or a negative errno; it runs on the loop's thread.
class Operation {
 public:
  explicit Operation(std::function<void(int result)> callback) : callback_(std::move(callback)) {}
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  ~Operation() { CHECK(!active_); }

  bool active() const { return active_; }

  // For adapters of Loop.
  void begin() {
    CHECK(!active_);
    active_ = true;
  }
  void complete(int result) {
    active_ = false;
    callback_(result);
  }
  /// Room for what the kernel reads while a timer is set.
  struct Interval {
    std::int64_t seconds;
    long long nanoseconds;
  };
  Interval interval{};
  /// Where the adapter keeps what it knows of the operation under way.
  std::ptrdiff_t place = 0;

 private:
  std::function<void(int result)> callback_;
  bool active_ = false;
};

/// Completion-based input and output of one thread. What an operation refers to (descriptor,
/// buffer, address) must stay until it completes; it never completes inside the call that begins
/// it. One thread, which creates the loop and calls run().
class Loop {
 public:
  virtual ~Loop() = default;

  /// Completes once when one of poll(2)'s `events` is there.
  virtual void poll(const UniqueFd& fd, short events, Operation& operation) = 0;
  /// Memory that will be received into again and again, which the kernel may therefore keep at
  /// hand. It must outlive the loop's run.
  virtual void keep_at_hand(MutableByteSpan memory) = 0;
  virtual void receive(const UniqueFd& socket, MutableByteSpan to, Operation& operation) = 0;
  virtual void send(const UniqueFd& socket, ByteSpan from, Operation& operation) = 0;
  /// REQUIRES: the socket is non-blocking.
  virtual void connect(const UniqueFd& socket, const TcpAddress& address, Operation& operation) = 0;
  /// Completes with -ETIME after the duration.
  virtual void wait(Nanoseconds duration, Operation& operation) = 0;
  /// Makes the operation under way complete soon, with -ECANCELED unless it already has a result.
  virtual void cancel(Operation& operation) = 0;

  /// After something completed, keeps looking for more without sleeping for this long; 0: sleeps at
  /// once. On the loop's thread.
  virtual void set_spin(Nanoseconds spin) = 0;

  /// Runs until stop(). A turn is what is done between two waits. Before it returns, everything
  /// still under way has completed with -ECANCELED; callbacks begin nothing new then.
  struct Turn {
    std::function<void()> before;
    std::function<void()> after;
  };
  virtual void run(const Turn& turn) = 0;
  virtual void stop() = 0;
};

}  // namespace thaw
