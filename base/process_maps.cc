#include "base/process_maps.h"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/file.h"

namespace thaw {

namespace {

/// What a look that others wait for goes through, 100 bytes a mapping.
constexpr std::size_t kMostBytesAtOnce = std::size_t{1} << 20;

/// What the kernel gives of it in one call.
constexpr std::size_t kMapsPieceBytes = 4096;

/// A line of /proc/PID/maps that has a file: "from-to perms offset major:minor inode path", all
/// hexadecimal but the inode.
struct Line {
  HostAddress from;
  HostAddress to;
  std::uint64_t offset;  // in the file
  MappedFile file;

  bool is_of(const struct stat& status) const {
    return file.inode == status.st_ino && file.device == status.st_dev;
  }
};
std::optional<Line> parse(const std::string& line) {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  std::uint64_t offset = 0;
  std::uint64_t inode = 0;
  unsigned major_number = 0;
  unsigned minor_number = 0;
  int path = 0;
  if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*4s %" SCNx64 " %x:%x %" SCNu64 " %n",
                  &from, &to, &offset, &major_number, &minor_number, &inode, &path) != 6 ||
      inode == 0) {
    return std::nullopt;
  }
  return Line{{from},
              {to},
              offset,
              {makedev(major_number, minor_number), inode,
               line.substr(std::min(static_cast<std::size_t>(path), line.size()))}};
}

/// Whether the pids that this process knows are those under /proc.
bool proc_is_ours() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self", error);
  return !error && self == std::to_string(::getpid());
}

}  // namespace

std::optional<MappedFile> first_file_at(const std::string& maps, std::span<const HostAddress> at) {
  const auto file = open_for_reading(maps);
  if (!file || at.empty()) return std::nullopt;
  const HostAddress last = std::ranges::max(at);
  std::string rest;  // of what was read, from the begin of a line on
  std::array<char, kMapsPieceBytes> piece;
  for (std::size_t total = 0; total < kMostBytesAtOnce;) {
    const ssize_t size = ::read(file->get(), piece.data(), piece.size());
    if (size <= 0) return std::nullopt;
    total += static_cast<std::size_t>(size);
    rest.append(piece.data(), static_cast<std::size_t>(size));
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = rest.find('\n', begin)) != rest.npos; begin = end + 1) {
      auto line = parse(rest.substr(begin, end - begin));
      if (!line) continue;
      if (line->from > last) return std::nullopt;
      const auto is_in = [&](HostAddress each) { return line->from <= each && each < line->to; };
      if (std::ranges::any_of(at, is_in)) return std::move(line->file);
    }
    rest.erase(0, begin);
  }
  return std::nullopt;
}

Result<std::vector<FileRange>> mappings_of(pid_t pid, const UniqueFd& file) {
  if (pid == 0 || !proc_is_ours()) {
    return fail(ErrorCode::kUnsupported, "the maps of a process in another PID namespace");
  }
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  std::istringstream maps(TRY(read_text_file(fmt::format("/proc/{}/maps", pid), kMostBytesAtOnce)));
  std::vector<FileRange> mappings;
  for (std::string line; std::getline(maps, line);) {
    const auto mapped = parse(line);
    if (!mapped || !mapped->is_of(status)) continue;
    mappings.push_back({{mapped->from, mapped->to - mapped->from}, mapped->offset});
  }
  return mappings;
}

std::vector<AddressRange> parts_in(std::span<const FileRange> mappings, AddressRange range) {
  std::vector<AddressRange> parts;
  const HostAddress end = range.start + range.length;
  const auto end_of = [](const FileRange& each) { return each.memory.start + each.memory.length; };
  for (auto each = std::ranges::upper_bound(mappings, range.start, {}, end_of);
       each != mappings.end() && each->memory.start < end; ++each) {
    const HostAddress first = std::max(range.start, each->memory.start);
    parts.push_back({first, std::min(end, end_of(*each)) - first});
  }
  return parts;
}

}  // namespace thaw
