#include "vmm-client/restore_profile.h"

#include <chrono>
#include <utility>

namespace thaw {

std::optional<std::uint64_t> RestoreProfile::us_of(std::string_view name) const {
  std::optional<std::uint64_t> us;
  for (const RestorePhase& phase : phases) {
    if (phase.name == name) us = us.value_or(0) + phase.us;
  }
  return us;
}

std::uint64_t RestoreProfile::total_us() const {
  std::uint64_t us = 0;
  for (const RestorePhase& phase : phases) us += phase.us;
  return us;
}

void PhaseTimer::begin(std::string_view name) {
  end_last();
  phases_.push_back({name, 0});
}

std::vector<RestorePhase> PhaseTimer::finish() {
  end_last();
  return std::exchange(phases_, {});
}

void PhaseTimer::end_last() {
  const Clock::time_point now = Clock::now();
  if (!phases_.empty()) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now - since_);
    phases_.back().us = static_cast<std::uint64_t>(us.count());
  }
  since_ = now;
}

}  // namespace thaw
