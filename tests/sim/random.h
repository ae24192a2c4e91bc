#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace thaw::sim {

/// The one source of chance of a simulation: the same seed gives the same run. One thread.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    // SplitMix64, whose output for neighbouring seeds has nothing in common.
    std::uint64_t z = (state_ += 0x9E37'79B9'7F4A'7C15u);
    z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9u;
    z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EBu;
    return z ^ (z >> 31);
  }
  /// 0 to limit - 1. REQUIRES: limit > 0.
  std::uint64_t below(std::uint64_t limit) { return next() % limit; }
  /// From least to most, both included.
  std::uint64_t from_to(std::uint64_t least, std::uint64_t most) {
    return least + below(most - least + 1);
  }
  /// Whether something happens that happens so many times in a thousand.
  bool chance(unsigned per_mille) { return below(1000) < per_mille; }
  /// Up to `most`, short ones as often as long ones.
  Nanoseconds duration(Nanoseconds most) {
    const auto whole = static_cast<std::uint64_t>(most.count());
    return Nanoseconds(static_cast<std::int64_t>(1 + below((whole >> below(12)) + 1)));
  }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  std::uint64_t state_;
};

}  // namespace thaw::sim
