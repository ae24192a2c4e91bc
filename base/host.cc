#include "base/host.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <span>
#include <string_view>

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"

namespace thaw {

namespace {

constexpr std::size_t kMostProcBytes = std::size_t{1} << 20;

/// memory.max of one cgroup: a number, or "max".
std::optional<ByteCount> memory_max(const std::filesystem::path& cgroup) {
  const auto text = read_text_file(cgroup / "memory.max", 64);
  std::uint64_t bytes = 0;
  if (!text) return std::nullopt;
  const auto end = text->data() + text->size();
  if (std::from_chars(text->data(), end, bytes).ec != std::errc()) return std::nullopt;
  return ByteCount{bytes};
}

/// Calls `visit` with each line of a file under /proc until it returns false.
template <typename Visit>
void for_each_line(const char* file, Visit visit) {
  const auto text = read_text_file(file, kMostProcBytes);
  if (!text) return;
  std::string_view rest = *text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    if (!visit(rest.substr(0, end))) return;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
}

/// Where the hierarchy of version 2 is mounted; empty when it is not.
std::string cgroup_mount() {
  std::string mount;
  for_each_line("/proc/self/mounts", [&](std::string_view line) {
    // "device directory type options ..."
    const std::size_t directory = line.find(' ') + 1;
    const std::size_t type = line.find(' ', directory) + 1;
    if (directory == 0 || type == 0 || !line.substr(type).starts_with("cgroup2 ")) return true;
    mount = line.substr(directory, type - 1 - directory);
    return false;
  });
  return mount;
}

/// This process's cgroup in that hierarchy: the line that begins with "0::".
std::string own_cgroup() {
  std::string path;
  for_each_line("/proc/self/cgroup", [&](std::string_view line) {
    if (!line.starts_with("0::")) return true;
    path = line.substr(3);
    return false;
  });
  return path;
}

}  // namespace

std::string cpu_vendor() {
#ifdef __x86_64__
  unsigned most = 0;
  std::array<unsigned, 3> words{};
  __cpuid(0, most, words[0], words[2], words[1]);
  return std::string(as_text(std::as_bytes(std::span(words))));
#else
  return {};
#endif
}

ByteCount physical_memory() {
  return bytes_of(PageCount{static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES))});
}

std::optional<ByteCount> cgroup_memory_limit(const std::string& mount, const std::string& path) {
  std::optional<ByteCount> least;
  const std::filesystem::path root(mount);
  for (std::filesystem::path at = std::filesystem::path(path).relative_path();;
       at = at.parent_path()) {
    if (const auto limit = memory_max(root / at)) least = std::min(least.value_or(*limit), *limit);
    if (at.empty()) return least;
  }
}

ByteCount usable_memory() {
  const ByteCount all = physical_memory();
  const std::string mount = cgroup_mount();
  if (mount.empty()) return all;
  return std::min(all, cgroup_memory_limit(mount, own_cgroup()).value_or(all));
}

}  // namespace thaw
