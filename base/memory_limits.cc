#include "base/memory_limits.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/file.h"

namespace thaw {

namespace {

constexpr std::size_t kMostMeminfoBytes = 64u << 10;
/// Descriptors of a process that are looked at for the file.
constexpr std::size_t kMostDescriptors = 4096;

std::optional<MemoryLimit> host_limit(const std::string& proc) {
  const auto text = read_text_file(proc + "/meminfo", kMostMeminfoBytes);
  if (!text) return std::nullopt;
  std::istringstream lines(*text);
  std::optional<ByteCount> most;
  std::optional<ByteCount> free;
  for (std::string line; std::getline(lines, line) && !(most && free);) {
    std::istringstream words(line);
    std::string key;
    std::uint64_t kib = 0;
    if (!(words >> key >> kib)) continue;
    if (key == "MemTotal:") most = ByteCount{kib << 10};
    if (key == "MemAvailable:") free = ByteCount{kib << 10};
  }
  if (!most || !free) return std::nullopt;
  return MemoryLimit{MemoryLimit::Of::kHost, *most, *free};
}

/// A file system without a limit says that it has no blocks.
std::optional<MemoryLimit> file_system_limit(const std::string& path) {
  struct statfs status{};
  if (::statfs(path.c_str(), &status) != 0 || status.f_blocks == 0) return std::nullopt;
  if (status.f_type != TMPFS_MAGIC && status.f_type != HUGETLBFS_MAGIC) return std::nullopt;
  const auto block = static_cast<std::uint64_t>(status.f_bsize);
  return MemoryLimit{
      MemoryLimit::Of::kFileSystem, {status.f_blocks * block}, {status.f_bavail * block}};
}

}  // namespace

std::string_view memory_limit_name(MemoryLimit::Of of) {
  switch (of) {
    case MemoryLimit::Of::kCgroup:
      return "the VMM's memory cgroup";
    case MemoryLimit::Of::kFileSystem:
      return "the tmpfs behind guest memory";
    case MemoryLimit::Of::kHost:
      return "this host's memory";
  }
  return "memory";
}

MemoryLimits MemoryLimits::of_process(pid_t pid, std::span<const AddressRange> memory,
                                      std::string proc) {
  MemoryLimits limits(pid, std::move(proc));
  limits.mounts_ = CgroupMounts::find(limits.proc_);
  limits.find_file(memory);
  return limits;
}

bool MemoryLimits::is_file(const std::string& path) const {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && status.st_ino == inode_ && status.st_dev == device_;
}

void MemoryLimits::find_file(std::span<const AddressRange> memory) {
  const std::string process = proc_ + "/" + (pid_ == 0 ? "self" : std::to_string(pid_));
  for (const AddressRange& range : memory) {
    const auto file = mapped_file(process + "/maps", range.start);
    if (!file) continue;
    has_file_ = true;
    device_ = file->device;
    inode_ = file->inode;
    // In the process's own root directory, and else by a descriptor that it has kept.
    const std::string named = process + "/root" + file->path;
    if (is_file(named)) {
      path_ = named;
      return;
    }
    std::error_code error;
    std::filesystem::directory_iterator each(process + "/fd", error);
    for (std::size_t i = 0;
         !error && each != std::filesystem::directory_iterator() && i < kMostDescriptors;
         ++i, each.increment(error)) {
      if (!is_file(each->path().string())) continue;
      path_ = each->path().string();
      return;
    }
    return;
  }
}

std::vector<MemoryLimit> MemoryLimits::read() const {
  std::vector<MemoryLimit> limits;
  if (const auto cgroup = MemoryCgroup::of_process(pid_, mounts_, proc_)) {
    for (const CgroupMemory& level : cgroup->limited_levels()) {
      limits.push_back(
          {MemoryLimit::Of::kCgroup, level.most, level.most - std::min(level.most, level.used)});
    }
  }
  if (!path_.empty() && is_file(path_)) {
    if (const auto left = file_system_limit(path_)) limits.push_back(*left);
  }
  if (const auto host = host_limit(proc_)) limits.push_back(*host);
  return limits;
}

}  // namespace thaw
