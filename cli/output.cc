#include "cli/output.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

#include "base/output.h"
#include "base/printable.h"

namespace thaw {

namespace {

/// Of text in UTF-8, where each character takes up one column.
std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80; }));
}

bool is_about_certificates(const std::string& command) { return command.starts_with("thaw certs"); }

}  // namespace

void print_table(const std::vector<std::vector<std::string>>& text) {
  auto rows = text;
  std::vector<std::size_t> widths;
  for (auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) {
      row[i] = printable(row[i]);
      widths[i] = std::max(widths[i], columns_of(row[i]));
    }
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - columns_of(row[i]) + 2, ' ');
    }
    print_out("{}\n", line);
  }
}

std::string human_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format(fmt::runtime(unit == 0 || value >= 100 ? "{:.0f} {}" : "{:.1f} {}"), value,
                     kUnits[unit]);
}

std::string human_time(std::uint64_t unix_ms) {
  const auto seconds = static_cast<std::time_t>(unix_ms / 1000);
  std::tm broken_down{};
  std::array<char, 32> text{};
  if (gmtime_r(&seconds, &broken_down) == nullptr ||
      std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &broken_down) == 0) {
    return "-";
  }
  return text.data();
}

std::string advice_for(const Error& error, const std::string& command) {
  switch (error.code()) {
    case ErrorCode::kUnavailable:
      return "Check that the daemon runs and that --server or --control names it.";
    case ErrorCode::kNotFound:
      // With an errno it is a file.
      if (error.error_number() != 0 || is_about_certificates(command)) return {};
      return "`thaw ls` and `thaw ps` show what there is.";
    case ErrorCode::kAlreadyExists:
      if (is_about_certificates(command)) return {};
      return "Choose another name, or remove the old one first.";
    case ErrorCode::kNoSpace:
      return "Free space on that disk, then run the same command again.";
    case ErrorCode::kQuotaExceeded:
      return "`thaw rm` and `thaw gc` make room; `thaw namespace` shows and sets the quotas.";
    case ErrorCode::kTimeout:
      if (command == "thaw push") {
        return "Run the same command again: it goes on from what was sent.";
      }
      return "Run the same command again. If it fails again, look into the log of the daemon that "
             "it asks.";
    case ErrorCode::kBadVersion:
      return "Use programs of the same version on both sides.";
    case ErrorCode::kInvalidArgument:
      return fmt::format("`{} --help` says what it takes.", printable(command));
    case ErrorCode::kReadOnly:
      return "Give it a place that can be written to.";
    case ErrorCode::kNoMemory:
      return "Free memory on that host, then run the same command again.";
    case ErrorCode::kNoDescriptors:
      return "Raise the limit of open files (ulimit -n), then run the same command again.";
    case ErrorCode::kCorrupt:
    case ErrorCode::kChecksumMismatch:
      return "`thaw scrub` and `thaw fsck` find what is damaged in a store.";
    case ErrorCode::kPermission:
      return "Run it as root or as the owner of the socket or file.";
    case ErrorCode::kTls:
      if (error.context().contains("revoked")) {
        return "Issue another certificate (`thaw certs issue`) in place of the revoked one.";
      }
      return "--tls-cert, --tls-key and --tls-ca must be of one authority on both sides; the page "
             "server's log says whom it refused.";
    case ErrorCode::kUnauthorized:
      return "The page server's --policy says what each peer may do.";
    default:
      return {};
  }
}

}  // namespace thaw
