#include "base/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace thaw {

unsigned LatencyHistogram::bucket_of(std::uint64_t value) {
  if (value < (1u << kSubBits)) return static_cast<unsigned>(value);
  const auto exponent = static_cast<unsigned>(std::bit_width(value)) - 1 - kSubBits;
  const auto mantissa = static_cast<unsigned>(value >> exponent) & ((1u << kSubBits) - 1);
  return ((exponent + 1) << kSubBits) + mantissa;
}

std::uint64_t LatencyHistogram::upper_end(unsigned bucket) {
  if (bucket < (1u << kSubBits)) return bucket;
  const unsigned exponent = (bucket >> kSubBits) - 1;
  const std::uint64_t mantissa = (bucket & ((1u << kSubBits) - 1)) | (1u << kSubBits);
  return ((mantissa + 1) << exponent) - 1;
}

void LatencyHistogram::record(Nanoseconds latency) {
  const std::int64_t value = std::max<std::int64_t>(latency.count(), 0);
  ++buckets_[bucket_of(static_cast<std::uint64_t>(value))];
  ++count_;
  max_ = std::max(max_, value);
}

Nanoseconds LatencyHistogram::quantile(double q) const {
  const auto wanted = std::max<std::uint64_t>(
      1, static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(count_))));
  std::uint64_t seen = 0;
  for (unsigned bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen >= wanted) {
      return Nanoseconds(
          std::min<std::int64_t>(static_cast<std::int64_t>(upper_end(bucket)), max_));
    }
  }
  return Nanoseconds(0);
}

}  // namespace thaw
