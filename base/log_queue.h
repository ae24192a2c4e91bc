#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "base/log.h"
#include "base/log_flood.h"

namespace thaw {

/// A line on its way to the log.
struct LogLine {
  LogLevel level = LogLevel::kInfo;
  std::chrono::system_clock::time_point at;
  std::string text;
  std::uint64_t stands_for = 1;  // lines that are lost if this one is
};

/// What the log says of lines that could not be written.
std::string lost_lines_text(std::uint64_t lines);

/// The lines that were logged and are not written yet, in their order. Holds limits::kMaxLogLines
/// and limits::kMaxLogBytes at most; lines beyond that are lost, and a line in their place says how
/// many. Floods are summarised (LogFlood). Pure: the caller brings the time. One thread.
class LogQueue {
 public:
  struct Now {
    Clock::time_point steady;
    std::chrono::system_clock::time_point wall;
    static Now read() { return {Clock::now(), std::chrono::system_clock::now()}; }
  };

  /// `kind` is empty for a line that is a kind by itself.
  void add(LogLevel level, std::string_view kind, std::string_view text, const Now& now);
  /// Adds the summaries that are due.
  void add_due(const Now& now);
  /// Adds the summaries of all floods: the log ends.
  void add_all_summaries(const Now& now);
  /// When add_due() will add something.
  std::optional<Clock::time_point> next_due() const { return flood_.next_due(); }

  bool empty() const { return lines_.empty() && lost_ == 0; }
  /// REQUIRES: not empty().
  LogLine take(const Now& now);

 private:
  bool has_room_for(std::size_t bytes) const;
  void add_passed(LogLevel level, std::string text, const Now& now);
  LogLine lost_lines(const Now& now);

  LogFlood flood_;
  std::deque<LogLine> lines_;
  std::size_t bytes_ = 0;   // of their texts
  std::uint64_t lost_ = 0;  // lines since the last of lines_
};

}  // namespace thaw
