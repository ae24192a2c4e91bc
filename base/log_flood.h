#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/log.h"

namespace thaw {

/// One peer, disk or guest can cause the same event a thousand times a second. Without a limit the
/// log would fill its disk and hide all else.
///
/// Of each kind, or of each text where a line has no kind, limits::kLogFloodBurst lines pass within
/// limits::kLogFloodFirst. Further lines are counted until the period ends, and a summary says how
/// many there were. While the flood lasts, periods grow to limits::kLogFloodMost and have only
/// their summary. After a period without further lines the kind begins anew.
///
/// Remembers limits::kMaxLogKinds kinds. Pure: the caller brings the time. One thread.
class LogFlood {
 public:
  struct Summary {
    LogLevel level;
    std::string text;
  };

  /// Whether the line passes. `kind` is empty for a line that is a kind by itself.
  /// REQUIRES: take_due(now) came first.
  bool admit(LogLevel level, std::string_view kind, std::string_view line, Clock::time_point now);

  /// The summaries of the periods that have ended.
  std::vector<Summary> take_due(Clock::time_point now);
  /// The summaries of all periods, ended or not: the log ends.
  std::vector<Summary> take_all(Clock::time_point now);

  /// When take_due() will have something; nothing while all lines pass.
  std::optional<Clock::time_point> next_due() const;

 private:
  struct Kind {
    LogLevel level;
    std::string name;  // empty: the text is the kind
    std::string text;  // of the last line
    Clock::time_point begun;
    Nanoseconds period;
    unsigned passed = 0;          // in this period
    std::uint64_t held_back = 0;  // in this period

    bool is(LogLevel a_level, std::string_view kind, std::string_view line) const;
    Clock::time_point end() const { return begun + period; }
    Summary summary(Clock::time_point now) const;
  };

  void make_room(Clock::time_point now);

  std::vector<Kind> kinds_;
  std::vector<Summary> displaced_;  // of kinds that were forgotten in the middle of a flood
};

}  // namespace thaw
