#pragma once

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/check.h"
#include "faulthandler/loop.h"

namespace thaw::test {

/// A loop without a kernel below it, for one connection: what was begun completes when the script
/// says so. One thread.
class ScriptedLoop final : public Loop {
 public:
  void poll(const UniqueFd&, short, Operation&) override { CHECK(false); }
  void keep_at_hand(MutableByteSpan) override {}
  void receive(const UniqueFd&, MutableByteSpan to, Operation& operation) override {
    begin(operation, receiving_);
    to_ = to;
  }
  void send(const UniqueFd&, ByteSpan from, Operation& operation) override {
    begin(operation, sending_);
    sent_ = from.size();
  }
  void connect(const UniqueFd&, const TcpAddress&, Operation& operation) override {
    begin(operation, connecting_);
  }
  void wait(Nanoseconds, Operation& operation) override { begin(operation, waiting_); }
  void cancel(Operation& operation) override {
    if (operation.active()) cancelled_.insert(&operation);
  }
  void set_spin(Nanoseconds) override {}
  void run(const Turn&) override { CHECK(false); }
  void stop() override { CHECK(false); }

  /// Lets connecting, sending and cancelling come to their ends.
  void settle() {
    while (true) {
      if (!cancelled_.empty()) {
        Operation* const operation = *cancelled_.begin();
        cancelled_.erase(cancelled_.begin());
        for (Operation** place : {&receiving_, &sending_, &connecting_, &waiting_}) {
          if (*place == operation) *place = nullptr;
        }
        operation->complete(-ECANCELED);
      } else if (connecting_ != nullptr) {
        std::exchange(connecting_, nullptr)->complete(0);
      } else if (sending_ != nullptr) {
        std::exchange(sending_, nullptr)->complete(static_cast<int>(sent_));
      } else {
        return;
      }
    }
  }
  bool receives() const { return receiving_ != nullptr && !cancelled_.contains(receiving_); }
  /// Gives as many of the bytes as are wanted now; returns how many. REQUIRES: receives().
  std::size_t feed(ByteSpan bytes) {
    const std::size_t n = std::min(bytes.size(), to_.size());
    std::ranges::copy(bytes.first(n), to_.begin());
    std::exchange(receiving_, nullptr)->complete(static_cast<int>(n));
    settle();
    return n;
  }

 private:
  static void begin(Operation& operation, Operation*& place) {
    CHECK(place == nullptr);
    operation.begin();
    place = &operation;
  }

  Operation* receiving_ = nullptr;
  MutableByteSpan to_;
  Operation* sending_ = nullptr;
  std::size_t sent_ = 0;
  Operation* connecting_ = nullptr;
  Operation* waiting_ = nullptr;
  std::set<Operation*> cancelled_;
};

}  // namespace thaw::test
