#include "base/process_maps.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <sstream>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/file.h"

namespace thaw {

namespace {

/// As many mappings as a process may have, of lines that are not all long.
constexpr std::size_t kMostBytes = std::size_t{16} << 20;

/// A line of /proc/PID/maps that has a file: "from-to perms offset major:minor inode path", all
/// hexadecimal but the inode.
struct Line {
  HostAddress from;
  HostAddress to;
  MappedFile file;
};
std::optional<Line> parse(const std::string& line) {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  std::uint64_t inode = 0;
  unsigned major_number = 0;
  unsigned minor_number = 0;
  int path = 0;
  if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*s %*x %x:%x %" SCNu64 " %n", &from, &to,
                  &major_number, &minor_number, &inode, &path) != 5 ||
      inode == 0) {
    return std::nullopt;
  }
  return Line{{from},
              {to},
              {makedev(major_number, minor_number), inode,
               line.substr(std::min(static_cast<std::size_t>(path), line.size()))}};
}

}  // namespace

std::optional<MappedFile> mapped_file(const std::string& maps, HostAddress at) {
  const auto text = read_text_file(maps, kMostBytes);
  if (!text) return std::nullopt;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    auto parsed = parse(line);
    if (parsed && parsed->from <= at && at < parsed->to) return std::move(parsed->file);
  }
  return std::nullopt;
}

Result<std::vector<AddressRange>> mapped_parts(pid_t pid, const UniqueFd& file, HostAddress start,
                                               ByteCount length) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  std::istringstream maps(TRY(read_text_file(fmt::format("/proc/{}/maps", pid), kMostBytes)));
  const HostAddress end = start + length;
  std::vector<AddressRange> parts;
  for (std::string line; std::getline(maps, line);) {
    const auto mapped = parse(line);
    if (!mapped || mapped->file.inode != status.st_ino || mapped->file.device != status.st_dev) {
      continue;
    }
    const HostAddress first = std::max(start, mapped->from);
    const HostAddress last = std::min(end, mapped->to);
    if (first < last) parts.push_back({first, last - first});
  }
  return parts;
}

}  // namespace thaw
