#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace thaw::bench {

/// The value below which the share `q` (0 to 1) of the values lies, the nearest one that occurs.
/// REQUIRES: values is not empty.
double quantile(std::vector<double> values, double q);
/// The middle value; the mean of the two in the middle where there are two.
/// REQUIRES: values is not empty.
double median(std::vector<double> values);

/// What the repetitions of a run measured, by name. One thread.
class Samples {
 public:
  void add(const std::string& name, double value) { values_[name].push_back(value); }
  /// REQUIRES: something was added under this name.
  const std::vector<double>& of(const std::string& name) const;
  double median_of(const std::string& name) const { return median(of(name)); }

 private:
  std::map<std::string, std::vector<double>> values_;
};

}  // namespace thaw::bench
