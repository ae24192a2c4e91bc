#include "base/memory_cgroup.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <string_view>

#include "base/file.h"

namespace thaw {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostProcBytes = std::size_t{1} << 20;
constexpr std::size_t kMostNumberBytes = 64;
constexpr std::size_t kMostCgroupStatBytes = 64u << 10;
/// Version 1 says "no limit" with a number near the end of what 63 bits hold.
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;
/// Page cache is looked at where less than this part of the limit is left without: memory.stat of a
/// busy cgroup takes the kernel longer than the other files.
constexpr std::uint64_t kAmplePart = 2;

std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc()) return {};
  return number;
}

/// A file with one number; nothing for "max" and where there is no such file.
std::optional<std::uint64_t> read_number(const fs::path& file) {
  const auto text = read_text_file(file.string(), kMostNumberBytes);
  return text ? number_in(*text) : std::nullopt;
}

/// The page cache that goes before anything else has to: all that was read once, and half of what
/// is in use. From memory.stat, lines of "key number".
std::uint64_t reclaimable_cache(const fs::path& stat, std::string_view prefix) {
  const auto text = read_text_file(stat.string(), kMostCgroupStatBytes);
  if (!text) return 0;
  std::istringstream lines(*text);
  std::uint64_t bytes = 0;
  std::string key;
  for (std::uint64_t number = 0; lines >> key >> number;) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view kind = std::string_view(key).substr(prefix.size());
    if (kind == "inactive_file") bytes += number;
    if (kind == "active_file") bytes += number / 2;
  }
  return bytes;
}

std::vector<std::string> words_of(const std::string& line, char separator) {
  std::vector<std::string> words;
  std::istringstream stream(line);
  for (std::string word; std::getline(stream, word, separator);) words.push_back(word);
  return words;
}

/// Of version 1 with the memory controller, or of version 2.
std::optional<CgroupMount> find_mount(const std::string& mounts, std::string_view type,
                                      std::string_view option) {
  std::istringstream lines(mounts);
  for (std::string line; std::getline(lines, line);) {
    // "id parent major:minor root mount options optional... - type source superoptions"
    const std::vector<std::string> words = words_of(line, ' ');
    const auto dash = std::ranges::find(words, "-");
    if (words.size() < 6 || words.end() - dash < 4 || dash[1] != type) continue;
    const std::vector<std::string> options = words_of(dash[3], ',');
    if (!option.empty() && std::ranges::find(options, option) == options.end()) continue;
    return CgroupMount{words[3], words[4]};
  }
  return std::nullopt;
}

/// The path of a cgroup below a mount of its hierarchy; nothing where the mount does not show it.
std::optional<fs::path> below(const CgroupMount& mount, const fs::path& cgroup) {
  const fs::path inside = cgroup.lexically_relative(mount.root);
  if (inside.empty() || std::ranges::find(inside, "..") != inside.end()) return std::nullopt;
  return inside == "." ? fs::path() : inside;
}

}  // namespace

CgroupMounts CgroupMounts::find(const std::string& proc) {
  const auto text = read_text_file(proc + "/self/mountinfo", kMostProcBytes);
  if (!text) return {};
  return {find_mount(*text, "cgroup", "memory"), find_mount(*text, "cgroup2", "")};
}

std::optional<MemoryCgroup> MemoryCgroup::of_process(pid_t pid, const CgroupMounts& mounts,
                                                     const std::string& proc) {
  const std::string process = pid == 0 ? "self" : std::to_string(pid);
  const auto text = read_text_file(proc + "/" + process + "/cgroup", kMostProcBytes);
  if (!text) return std::nullopt;
  std::optional<fs::path> first;
  std::optional<fs::path> second;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    // "number:controllers:path"; the number of version 2 is 0.
    const std::size_t controllers = line.find(':') + 1;
    const std::size_t path = line.find(':', controllers) + 1;
    if (controllers == 0 || path == 0) continue;
    const auto names = words_of(line.substr(controllers, path - 1 - controllers), ',');
    if (std::ranges::find(names, "memory") != names.end()) first = line.substr(path);
    if (line.starts_with("0::")) second = line.substr(path);
  }
  const Version version = first ? Version::kOne : Version::kTwo;
  const auto& cgroup = first ? first : second;
  const auto& mount = first ? mounts.first : mounts.second;
  if (!cgroup || !mount) return std::nullopt;
  const auto path = below(*mount, *cgroup);
  if (!path) return std::nullopt;
  return MemoryCgroup(version, mount->at, *path);
}

std::optional<CgroupMemory> MemoryCgroup::level(const fs::path& at) const {
  const bool first = version_ == Version::kOne;
  auto limit = read_number(at / (first ? "memory.limit_in_bytes" : "memory.max"));
  if (!first) {
    // Above memory.high the VMM is held up.
    const auto high = read_number(at / "memory.high");
    if (high) limit = std::min(limit.value_or(*high), *high);
  }
  const auto used = read_number(at / (first ? "memory.usage_in_bytes" : "memory.current"));
  if (!limit || *limit >= kNoLimit || !used) return std::nullopt;
  std::uint64_t reclaimable = 0;
  if (*used > *limit / kAmplePart) {
    reclaimable = reclaimable_cache(at / "memory.stat", first ? "total_" : "");
  }
  return CgroupMemory{{*limit}, {*used - std::min(*used, reclaimable)}};
}

std::vector<CgroupMemory> MemoryCgroup::limited_levels() const {
  std::vector<CgroupMemory> levels;
  for (fs::path at = path_;; at = at.parent_path()) {
    if (const auto limited = level(mount_ / at)) levels.push_back(*limited);
    if (at.empty()) return levels;
  }
}

}  // namespace thaw
