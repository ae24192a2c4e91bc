#include "faulthandler/placement_policy.h"

#include <algorithm>
#include <chrono>

namespace thaw {

namespace {

/// Queueing that is more than following saves: between two looks, and for each time that faults
/// were read, which saves two wake-ups of another CPU.
constexpr std::chrono::microseconds kTolerableQueueing{500};
constexpr std::chrono::microseconds kSavedByFollowing{30};
constexpr std::chrono::milliseconds kShortestPause{20};
constexpr std::chrono::seconds kLongestPause{2};
/// Less than this between two looks, and nobody else wants the CPU.
constexpr std::chrono::microseconds kFreeCpuQueueing{50};
/// Half of a restored guest's faults come in its first 300 ms, nearly all in its first second.
constexpr std::chrono::seconds kRestoreWindow{2};

Nanoseconds tolerable(const PlacementPolicy::Look& look) {
  return std::max<Nanoseconds>(kTolerableQueueing, look.faults * kSavedByFollowing);
}

}  // namespace

PlacementPolicy::Decision PlacementPolicy::decide(const Look& look) {
  const bool queues = look.starves || look.queued > tolerable(look);
  if (at_) {
    pause_ = std::clamp<Nanoseconds>(queues ? pause_ * 2 : pause_ / 2, kShortestPause / 2,
                                     kLongestPause);
  }
  if (at_ && queues) {
    free_until_ = look.now + pause_;
    at_.reset();
  } else if (look.faults > 0 && look.examined) {
    const bool follow =
        may_ == May::kFollow && !look.other_vm && look.now >= free_until_ && !queues;
    at_ = follow ? look.hot_cpu : std::nullopt;
    spread_ = may_ == May::kSpinAlone || !look.hot_cpu;
  }
  const bool restoring = restored_ && look.now - *restored_ < kRestoreWindow;
  return {.cpu = at_, .spin = restoring && spread_ && look.queued < kFreeCpuQueueing};
}

}  // namespace thaw
