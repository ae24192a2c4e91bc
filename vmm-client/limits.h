#pragma once

#include <chrono>
#include <cstddef>

/// Every bound on a restored VM's memory and on a pool of shells.
namespace thaw::limits {

/// How long memory that is given up waits for its handler to have let go of it.
inline constexpr std::chrono::seconds kFarewellWait{5};

inline constexpr std::size_t kMaxShells = 4096;  // of one pool

/// How long warming waits for shells that others are making.
inline constexpr std::chrono::seconds kWarmWait{10};
/// From a failure to make a shell in the background to the next attempt.
inline constexpr std::chrono::seconds kReplenishPause{1};

}  // namespace thaw::limits
