#include "tests/sim/schedule.h"

#include <utility>

namespace thaw::sim {

void Schedule::after(Nanoseconds delay, std::function<void()> action) {
  entries_.push({now_ + delay, random_.next(), std::move(action)});
}

bool Schedule::step() {
  if (entries_.empty()) return false;
  now_ = entries_.top().when;
  const std::function<void()> action = entries_.top().action;
  entries_.pop();
  ++steps_;
  action();
  return true;
}

void Schedule::violate(const std::string& what) {
  note("VIOLATION: {}", what);
  if (violation_.empty()) violation_ = what;
}

void Schedule::note_line(const std::string& line) {
  const auto at = static_cast<std::uint64_t>(now_.time_since_epoch().count());
  const auto add = [this](std::uint64_t byte) { hash_ = (hash_ ^ byte) * 0x100'0000'01B3u; };
  add(at);
  for (const char c : line) add(static_cast<unsigned char>(c));
  if (trace_ == Trace::kQuiet) return;
  fmt::print("{:>12.3f} us  {}\n", static_cast<double>(at - 3'600'000'000'000u) / 1000, line);
}

}  // namespace thaw::sim
