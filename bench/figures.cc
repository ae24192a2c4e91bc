#include "bench/figures.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace thaw::bench {

double quantile(std::vector<double> values, double q) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(q * static_cast<double>(values.size()));
  const std::size_t place = rank < 1 ? 0 : static_cast<std::size_t>(rank) - 1;
  return values[std::min(place, values.size() - 1)];
}

double median(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  if (values.size() % 2 == 1) return values[middle];
  return (values[middle - 1] + values[middle]) / 2;
}

const std::vector<double>& Samples::of(const std::string& name) const {
  const auto found = values_.find(name);
  CHECK(found != values_.end());
  return found->second;
}

}  // namespace thaw::bench
