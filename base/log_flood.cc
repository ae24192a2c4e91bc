#include "base/log_flood.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace thaw {

bool LogFlood::Kind::is(LogLevel a_level, std::string_view kind, std::string_view line) const {
  return level == a_level && name == kind && (!name.empty() || text == line);
}

LogFlood::Summary LogFlood::Kind::summary(Clock::time_point now) const {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(std::min(now, end()) - begun);
  if (name.empty()) {
    return {level, fmt::format("{} more in {} s of: {}", held_back, seconds.count(), text)};
  }
  return {level,
          fmt::format("{}: {} more in {} s, the last: {}", name, held_back, seconds.count(), text)};
}

bool LogFlood::admit(LogLevel level, std::string_view kind, std::string_view line,
                     Clock::time_point now) {
  const auto known =
      std::ranges::find_if(kinds_, [&](const Kind& one) { return one.is(level, kind, line); });
  if (known == kinds_.end()) {
    if (kinds_.size() == limits::kMaxLogKinds) make_room(now);
    kinds_.push_back({.level = level,
                      .name = std::string(kind),
                      .text = std::string(line),
                      .begun = now,
                      .period = limits::kLogFloodFirst,
                      .passed = 1});
    return true;
  }
  if (known->passed < limits::kLogFloodBurst) {
    ++known->passed;
    return true;
  }
  known->text = line;
  ++known->held_back;
  return false;
}

std::vector<LogFlood::Summary> LogFlood::take_due(Clock::time_point now) {
  std::vector<Summary> due = std::exchange(displaced_, {});
  std::erase_if(kinds_, [&](const Kind& kind) { return kind.held_back == 0 && kind.end() <= now; });
  for (Kind& kind : kinds_) {
    if (kind.end() > now) continue;
    due.push_back(kind.summary(now));
    kind.begun = now;
    kind.period = std::min<Nanoseconds>(2 * kind.period, limits::kLogFloodMost);
    kind.held_back = 0;
  }
  return due;
}

std::vector<LogFlood::Summary> LogFlood::take_all(Clock::time_point now) {
  std::vector<Summary> all = std::exchange(displaced_, {});
  for (const Kind& kind : std::exchange(kinds_, {})) {
    if (kind.held_back > 0) all.push_back(kind.summary(now));
  }
  return all;
}

std::optional<Clock::time_point> LogFlood::next_due() const {
  std::optional<Clock::time_point> next;
  for (const Kind& kind : kinds_) {
    if (kind.held_back > 0 && (!next || kind.end() < *next)) next = kind.end();
  }
  return next;
}

/// Forgets the oldest kind, one that is no flood if there is one.
void LogFlood::make_room(Clock::time_point now) {
  const auto oldest = std::ranges::min_element(
      kinds_, {}, [](const Kind& kind) { return std::pair(kind.held_back > 0, kind.begun); });
  if (oldest->held_back > 0) displaced_.push_back(oldest->summary(now));
  kinds_.erase(oldest);
}

}  // namespace thaw
