// thaw_sim: restores in simulated worlds, a seed each.

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <string_view>

#include <fmt/core.h>

#include "tests/sim/world.h"

namespace {

using namespace thaw::sim;

constexpr std::string_view kUsage =
    "usage: thaw_sim --seeds FIRST-LAST | --seed N [--trace] | --minutes N\n"
    "\n"
    "  --seeds A-B   runs these seeds until one fails\n"
    "  --seed N      runs one\n"
    "  --trace       prints what happens in it\n"
    "  --minutes N   runs new seeds until one fails or the time is over\n"
    "\n"
    "Exits with 1 when a seed fails, and says which and how to run it again.\n";

struct Options {
  std::uint64_t first = 1;
  std::uint64_t last = 0;
  std::uint64_t minutes = 0;  // 0: as long as the seeds take
  Trace trace = Trace::kQuiet;
};

bool parse_number(std::string_view text, std::uint64_t& to) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), to);
  return error == std::errc() && end == text.data() + text.size();
}

std::uint64_t seconds_now() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

bool parse_option(std::string_view name, std::string_view value, Options& options) {
  const std::size_t dash = value.find('-');
  if (name == "--seeds" && dash != value.npos) {
    return parse_number(value.substr(0, dash), options.first) &&
           parse_number(value.substr(dash + 1), options.last);
  }
  if (name == "--seed") {
    const bool parsed = parse_number(value, options.first);
    options.last = options.first;
    return parsed;
  }
  if (name != "--minutes" || !parse_number(value, options.minutes)) return false;
  // No two runs begin in the same second, and none runs so many seeds a second.
  options.first = seconds_now() * 100'000;
  options.last = UINT64_MAX;
  return options.minutes > 0;
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--trace") {
      options.trace = Trace::kPrint;
    } else if (++i == argc || !parse_option(name, argv[i], options)) {
      return false;
    }
  }
  return options.first <= options.last;
}

/// Which seed runs, for the handler of SIGABRT.
std::uint64_t& running_seed() {
  static std::uint64_t seed = 0;
  return seed;
}

void tell_failure(std::string_view what) {
  fmt::print("seed {} fails: {}\nagain: thaw_sim --seed {} --trace\n", running_seed(), what,
             running_seed());
}

/// A broken invariant of the code under test. It is raised by this thread itself.
void on_abort(int) {
  tell_failure("a broken invariant");
  std::fflush(stdout);
  std::_Exit(1);
}

int run(const Options& options) {
  const auto snapshots = make_snapshots();
  const std::uint64_t end =
      options.minutes == 0 ? UINT64_MAX : seconds_now() + options.minutes * 60;
  std::uint64_t count = 0;
  std::uint64_t steps = 0;
  for (std::uint64_t seed = options.first; count <= options.last - options.first; ++seed, ++count) {
    if (seconds_now() >= end) break;
    running_seed() = seed;
    const Outcome outcome = run_seed(seed, snapshots, options.trace);
    if (!outcome.violation.empty()) {
      tell_failure(outcome.violation);
      return 1;
    }
    steps += outcome.steps;
    if (options.trace == Trace::kPrint) fmt::print("trace hash {:#x}\n", outcome.trace_hash);
  }
  fmt::print("{} seeds, {} steps, no failure\n", count, steps);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    fmt::print(stderr, "{}", kUsage);
    return 2;
  }
  std::signal(SIGABRT, on_abort);
  return run(options);
}
