#pragma once

#include <string>
#include <string_view>

#include <fmt/core.h>

#include "base/clock.h"
#include "base/error.h"

namespace thaw {

/// One line a message, with time, program name and level. A program's life must not depend on who
/// reads its log: no call here waits for the reader, and no reader's end is an error.
///
/// In a server a thread writes the lines, which may block, and limits::kMaxLogLines wait for it at
/// most. Elsewhere (commands, and libraries inside other programs) the calling thread writes them,
/// which gives up after limits::kLogPatience. Lines that could not be written are counted, and the
/// log says how many when it can be written again. Floods are counted as well (base/log_flood.h).
/// Control characters of a message are escaped, line ends too. Any thread.

enum class LogLevel { kDebug, kInfo, kWarning, kError, kNone };

/// Names the program in each line. Call once, at the start of main. Lines go to stderr.
void start_logging(std::string_view program, LogLevel least);

/// Starts the thread that writes the lines; called by servers, after confine(), which wants no
/// other threads. With a file, lines are appended to it from now on. The file is created with mode
/// 0640. Fails if the file cannot be opened.
Result<void> write_log_in_background(const std::string& file);

/// Has the log's file opened again under its name, if there is one: logrotate(8) has moved it. If
/// that fails, the old file stays in use and gets an error.
void reopen_log();

/// Waits until all lines are written, at most until the deadline. Done by exit(3) as well, with
/// limits::kLogPatience; to be called before exec(2).
void flush_log(Deadline deadline);

/// Writes a line before the process aborts, and all lines before it, within limits::kLogPatience.
void log_last_words(std::string_view line) noexcept;

/// An event that others can cause without end, such as a refused connection. A few lines of each
/// kind are written; the rest are counted.
struct LogKind {
  explicit LogKind(std::string event) : name(std::move(event)) {}
  /// Tells apart errors of different codes: a flood of one does not hide another.
  LogKind(std::string_view event, const Error& error)
      : name(fmt::format("{} ({})", event, error_name(error.code()))) {}
  std::string name;
};

/// Writes one line. Never called on the path of a fault, and never with guest memory.
void log_line(LogLevel level, std::string_view line);
void log_line(LogLevel level, const LogKind& kind, std::string_view line);

template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kDebug, fmt::vformat(format, fmt::make_format_args(args...)));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::vformat(format, fmt::make_format_args(args...)));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarning, fmt::vformat(format, fmt::make_format_args(args...)));
}
template <typename... Args>
void log_warning(const LogKind& kind, fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarning, kind, fmt::vformat(format, fmt::make_format_args(args...)));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kError, fmt::vformat(format, fmt::make_format_args(args...)));
}
template <typename... Args>
void log_error(const LogKind& kind, fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kError, kind, fmt::vformat(format, fmt::make_format_args(args...)));
}

}  // namespace thaw
