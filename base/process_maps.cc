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

}  // namespace

Result<std::vector<AddressRange>> mapped_parts(pid_t pid, const UniqueFd& file, HostAddress start,
                                               ByteCount length) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  std::istringstream maps(TRY(read_text_file(fmt::format("/proc/{}/maps", pid), kMostBytes)));
  const HostAddress end = start + length;
  std::vector<AddressRange> parts;
  for (std::string line; std::getline(maps, line);) {
    // "from-to perms offset major:minor inode path", all hexadecimal but the inode.
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    std::uint64_t inode = 0;
    unsigned major_number = 0;
    unsigned minor_number = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*s %*x %x:%x %" SCNu64, &from, &to,
                    &major_number, &minor_number, &inode) != 5) {
      continue;
    }
    if (inode != status.st_ino || makedev(major_number, minor_number) != status.st_dev) continue;
    const HostAddress first = std::max(start, HostAddress{from});
    const HostAddress last = std::min(end, HostAddress{to});
    if (first < last) parts.push_back({first, last - first});
  }
  return parts;
}

}  // namespace thaw
