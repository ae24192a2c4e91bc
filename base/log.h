#pragma once

#include <string_view>

#include <fmt/core.h>

namespace thaw {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Prepares logging to stderr: one line a message, with time, program name and level. Call once at
/// the start of main; before that, and in libraries, messages go to stderr all the same.
void start_logging(std::string_view program, LogLevel least);

/// Writes one line. Any thread. Never called on the path of a fault, and never with guest memory.
void log_line(LogLevel level, std::string_view line);

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
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kError, fmt::vformat(format, fmt::make_format_args(args...)));
}

}  // namespace thaw
