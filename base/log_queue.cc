#include "base/log_queue.h"

#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace thaw {

std::string lost_lines_text(std::uint64_t lines) {
  return fmt::format("{} line{} lost: the log took no more", lines, lines == 1 ? "" : "s");
}

void LogQueue::add(LogLevel level, std::string_view kind, std::string_view text, const Now& now) {
  add_due(now);
  if (flood_.admit(level, kind, text, now.steady)) add_passed(level, std::string(text), now);
}

void LogQueue::add_due(const Now& now) {
  for (LogFlood::Summary& summary : flood_.take_due(now.steady)) {
    add_passed(summary.level, std::move(summary.text), now);
  }
}

void LogQueue::add_all_summaries(const Now& now) {
  for (LogFlood::Summary& summary : flood_.take_all(now.steady)) {
    add_passed(summary.level, std::move(summary.text), now);
  }
}

bool LogQueue::has_room_for(std::size_t bytes) const {
  return lines_.size() < limits::kMaxLogLines && bytes <= limits::kMaxLogBytes - bytes_;
}

void LogQueue::add_passed(LogLevel level, std::string text, const Now& now) {
  if (lost_ > 0 && has_room_for(limits::kMaxLogLineBytes)) {
    lines_.push_back(lost_lines(now));
    bytes_ += lines_.back().text.size();
  }
  if (lost_ > 0 || !has_room_for(text.size())) {
    ++lost_;
    return;
  }
  bytes_ += text.size();
  lines_.push_back({.level = level, .at = now.wall, .text = std::move(text)});
}

LogLine LogQueue::lost_lines(const Now& now) {
  const std::uint64_t lost = std::exchange(lost_, 0);
  return {.level = LogLevel::kWarning,
          .at = now.wall,
          .text = lost_lines_text(lost),
          .stands_for = lost};
}

LogLine LogQueue::take(const Now& now) {
  CHECK(!empty());
  if (lines_.empty()) return lost_lines(now);
  LogLine line = std::move(lines_.front());
  lines_.pop_front();
  bytes_ -= line.text.size();
  return line;
}

}  // namespace thaw
