#pragma once

#include <array>
#include <cstdint>

#include "base/clock.h"

namespace thaw {

/// Latencies in buckets whose width is at most 1/16 of their value: percentiles are right to
/// about 6 %. Fixed size, no allocation. One thread.
class LatencyHistogram {
 public:
  void record(Nanoseconds latency);

  std::uint64_t count() const { return count_; }
  /// Upper end of the bucket that holds the given quantile (0 to 1) of the latencies, never more
  /// than the largest one; 0 when there are none.
  Nanoseconds quantile(double q) const;
  Nanoseconds max() const { return Nanoseconds(max_); }

 private:
  static constexpr unsigned kSubBits = 4;
  static constexpr unsigned kBuckets = (64 - kSubBits + 1) << kSubBits;
  static unsigned bucket_of(std::uint64_t value);
  static std::uint64_t upper_end(unsigned bucket);

  std::array<std::uint64_t, kBuckets> buckets_{};
  std::uint64_t count_ = 0;
  std::int64_t max_ = 0;
};

}  // namespace thaw
