#include "faulthandler/placement_policy.h"

#include <algorithm>
#include <chrono>

namespace thaw {

namespace {

/// Queueing between two looks that is more than following saves.
constexpr std::chrono::microseconds kTolerableQueueing{500};
constexpr std::chrono::milliseconds kShortestPause{20};
constexpr std::chrono::seconds kLongestPause{2};
/// Half of a restored guest's faults come in its first 300 ms, nearly all in its first second.
constexpr std::chrono::seconds kRestoreWindow{2};

}  // namespace

PlacementPolicy::Decision PlacementPolicy::decide(const Look& look) {
  if (at_ && look.queued > kTolerableQueueing) {
    pause_ = std::clamp<Nanoseconds>(pause_ * 2, kShortestPause, kLongestPause);
    free_until_ = look.now + pause_;
    at_.reset();
  } else if (look.faults) {
    const bool follow = !look.other_vm && look.now >= free_until_;
    at_ = follow ? look.hot_cpu : std::nullopt;
  }
  const bool restoring = restored_ && look.now - *restored_ < kRestoreWindow;
  return {.cpu = at_, .spin = restoring && !at_};
}

}  // namespace thaw
