#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace thaw::bench {

/// What a run's figures depend on.
struct Machine {
  std::string cpu;
  unsigned cores = 0;
  std::string kernel;
  std::string date;  // UTC
};
Machine this_machine();
/// One line for people.
std::string machine_line(const Machine& machine);

/// One figure, beside the least that it could be.
struct Figure {
  std::string name;
  std::string unit;
  double value = 0;
  double floor = 0;
  std::size_t n = 0;  // repetitions whose median `value` is
  std::string note;

  /// For times, sizes and rates alike. REQUIRES: floor > 0.
  double ratio() const;
};

/// The figures of one bench as a table, with the machine line, on stdout.
void print_figures(const Machine& machine, const std::vector<Figure>& figures);

/// The same as one JSON object: machine, bench, results.
std::string figures_json(const Machine& machine, const std::string& bench,
                         const std::vector<Figure>& figures);

}  // namespace thaw::bench
