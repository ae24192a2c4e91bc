#pragma once

#include <string_view>

#include <fmt/core.h>

#include "base/clock.h"

namespace thaw {

/// What programs print. A reader that is gone, or a full disk, is no exception and no signal: it is
/// told once, by finish_output().

/// Writes all of the text, or gives up at the deadline: the reader of a pipe, a terminal or a
/// socket may have stopped. Never raises SIGPIPE, so it may be called inside other programs.
/// Returns whether all was written. Any thread.
bool write_within(int fd, std::string_view text, Deadline deadline) noexcept;

/// Adds to stdout. A failure shows in finish_output().
void print_text(std::string_view text);
template <typename... Args>
void print_out(fmt::format_string<Args...> format, Args&&... args) {
  print_text(fmt::vformat(format, fmt::make_format_args(args...)));
}

/// Writes to stderr, within limits::kLogPatience. What cannot be written there is dropped.
void print_problem(std::string_view text);
template <typename... Args>
void print_err(fmt::format_string<Args...> format, Args&&... args) {
  print_problem(fmt::vformat(format, fmt::make_format_args(args...)));
}

/// Tells on stdout that a server is ready, a whole line. A server serves without a reader as well,
/// so what cannot be written within limits::kLogPatience is dropped.
void announce(std::string_view line);

/// The last call of main, with the exit code: that, unless something could not be written to
/// stdout. Then stderr says so, and the exit code is 1.
int finish_output(int exit_code);

}  // namespace thaw
