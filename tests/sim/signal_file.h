#pragma once

#include <poll.h>

#include "tests/sim/machine.h"

namespace thaw::sim {

/// An eventfd: readable while it is set.
class SignalFile final : public File {
 public:
  enum class State { kCleared, kSet };
  short ready() const override { return state_ == State::kSet ? POLLIN : 0; }
  void set(State state) { state_ = state; }

 private:
  State state_ = State::kCleared;
};

}  // namespace thaw::sim
