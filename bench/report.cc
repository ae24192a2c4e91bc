#include "bench/report.h"

#include <cstdio>
#include <fstream>
#include <thread>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/clock.h"
#include "base/output.h"
#include "cli/output.h"

namespace thaw::bench {

namespace {

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

std::string kernel_release() {
  std::ifstream file("/proc/sys/kernel/osrelease");
  std::string line;
  std::getline(file, line);
  return line;
}

/// Three digits that count, whatever the size.
std::string short_number(double value) {
  if (value >= 100) return fmt::format("{:.0f}", value);
  return fmt::format("{:.3g}", value);
}

}  // namespace

Machine this_machine() {
  return {.cpu = cpu_model(),
          .cores = std::thread::hardware_concurrency(),
          .kernel = kernel_release(),
          .date = human_time(unix_milliseconds())};
}

std::string machine_line(const Machine& machine) {
  return fmt::format("machine: {}, {} cores, Linux {}, {} UTC", machine.cpu, machine.cores,
                     machine.kernel, machine.date);
}

double Figure::ratio() const {
  CHECK(floor > 0);
  return value / floor;
}

void print_figures(const Machine& machine, const std::vector<Figure>& figures) {
  std::vector<std::vector<std::string>> rows{{"FIGURE", "VALUE", "UNIT", "FLOOR", "RATIO", "N"}};
  for (const Figure& figure : figures) {
    rows.push_back({figure.name, short_number(figure.value), figure.unit,
                    short_number(figure.floor), fmt::format("{:.2f}", figure.ratio()),
                    std::to_string(figure.n)});
  }
  print_table(rows);
  print_out("\n");
  for (const Figure& figure : figures) {
    if (!figure.note.empty()) print_out("{}: {}\n", figure.name, figure.note);
  }
  print_out("\n{}\n", machine_line(machine));
}

std::string figures_json(const Machine& machine, const std::string& bench,
                         const std::vector<Figure>& figures) {
  using Json = nlohmann::ordered_json;
  Json results = Json::array();
  for (const Figure& figure : figures) {
    results.push_back({{"name", figure.name},
                       {"unit", figure.unit},
                       {"value", figure.value},
                       {"floor", figure.floor},
                       {"ratio", figure.ratio()},
                       {"n", figure.n},
                       {"note", figure.note}});
  }
  const Json whole{{"machine",
                    {{"cpu", machine.cpu},
                     {"cores", machine.cores},
                     {"kernel", machine.kernel},
                     {"date", machine.date}}},
                   {"bench", bench},
                   {"results", results}};
  return whole.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace thaw::bench
