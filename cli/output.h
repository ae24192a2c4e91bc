#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace thaw {

/// Rows of text as a table with aligned columns on stdout, each cell printable; the first row is
/// the heading.
void print_table(const std::vector<std::vector<std::string>>& rows);

/// "1.5 GiB", "640 KiB", "12 B".
std::string human_bytes(std::uint64_t bytes);
/// "2026-01-31 12:00:00" in UTC.
std::string human_time(std::uint64_t unix_ms);

/// What a user can do about an error of this command ("thaw ws show"), or nothing to add; one
/// sentence.
std::string advice_for(const Error& error, const std::string& command);

}  // namespace thaw
