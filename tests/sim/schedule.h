#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "base/clock.h"
#include "tests/sim/random.h"

namespace thaw::sim {

/// Whether what happens is printed as well.
enum class Trace { kQuiet, kPrint };

/// Everything that happens in a simulated world, in the order of its simulated time; what happens
/// at the same time, in an order that the seed decides. One thread.
class Schedule {
 public:
  Schedule(std::uint64_t seed, Trace trace) : random_(seed), trace_(trace) {}
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  Random& random() { return random_; }
  Clock::time_point now() const { return now_; }
  /// Has it happen after this time. It must not outlive what it refers to.
  void after(Nanoseconds delay, std::function<void()> action);
  /// Lets the next thing happen; false when there is none.
  bool step();
  /// Nothing of what was to happen does any more.
  void clear() { entries_ = {}; }
  std::uint64_t steps() const { return steps_; }

  /// Notes what happens. Two runs of a seed note the same.
  template <typename... Args>
  void note(fmt::format_string<Args...> format, Args&&... args) {
    note_line(fmt::vformat(format, fmt::make_format_args(args...)));
  }
  std::uint64_t trace_hash() const { return hash_; }

  /// What must not happen has happened. The first one counts.
  void violate(const std::string& what);
  const std::string& violation() const { return violation_; }

 private:
  struct Entry {
    Clock::time_point when;
    std::uint64_t tie;
    std::function<void()> action;
  };
  struct Later {
    bool operator()(const Entry& a, const Entry& b) const {
      return a.when != b.when ? a.when > b.when : a.tie > b.tie;
    }
  };
  void note_line(const std::string& line);

  Random random_;
  const Trace trace_;
  // The zero of a clock means "never" to much code.
  Clock::time_point now_{std::chrono::hours(1)};
  std::priority_queue<Entry, std::vector<Entry>, Later> entries_;
  std::uint64_t steps_ = 0;
  std::uint64_t hash_ = 0xCBF2'9CE4'8422'2325u;
  std::string violation_;
};

}  // namespace thaw::sim
