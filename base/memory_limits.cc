#include "base/memory_limits.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

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
std::optional<MemoryLimit> file_system_limit(const UniqueFd& file) {
  struct statfs status{};
  if (::fstatfs(file.get(), &status) != 0 || status.f_blocks == 0) return std::nullopt;
  if (status.f_type != TMPFS_MAGIC && status.f_type != HUGETLBFS_MAGIC) return std::nullopt;
  const auto block = static_cast<std::uint64_t>(status.f_bsize);
  return MemoryLimit{
      MemoryLimit::Of::kFileSystem, {status.f_blocks * block}, {status.f_bavail * block}};
}

bool is_wanted(const MappedFile& wanted, const UniqueFd& file) {
  struct stat status{};
  return file.valid() && ::fstat(file.get(), &status) == 0 && status.st_ino == wanted.inode &&
         status.st_dev == wanted.device;
}

/// By its name in the root directory of a process. Its user decides where that leads, so no link is
/// followed, and nothing is opened but as a place.
UniqueFd find_in_root(const MappedFile& wanted, const std::string& root) {
  const UniqueFd directory(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid() || wanted.path.empty()) return {};
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
  // SAFETY: the kernel reads the path and `how`, and returns a new descriptor.
  UniqueFd file(static_cast<int>(
      ::syscall(SYS_openat2, directory.get(), wanted.path.c_str(), &how, sizeof(how))));
  return is_wanted(wanted, file) ? std::move(file) : UniqueFd();
}

/// A link of /proc leads to an open file. What it is is asked of this kernel alone: another file
/// that the process has open may be of a file system that answers when it likes.
bool leads_to(const MappedFile& wanted, const std::string& link) {
  struct statx status{};
  return ::statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC, STATX_INO, &status) == 0 &&
         status.stx_ino == wanted.inode &&
         makedev(status.stx_dev_major, status.stx_dev_minor) == wanted.device;
}

/// In the process's own root directory, and else by a descriptor that it has kept.
UniqueFd reach(const MappedFile& wanted, const std::string& process) {
  if (UniqueFd file = find_in_root(wanted, process + "/root"); file.valid()) return file;
  std::error_code error;
  std::filesystem::directory_iterator each(process + "/fd", error);
  for (std::size_t i = 0;
       !error && each != std::filesystem::directory_iterator() && i < kMostDescriptors;
       ++i, each.increment(error)) {
    if (!leads_to(wanted, each->path().string())) continue;
    UniqueFd file(::open(each->path().c_str(), O_PATH | O_CLOEXEC));
    if (is_wanted(wanted, file)) return file;
  }
  return {};
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

BackingFile backing_file_of(pid_t pid, std::span<const HostAddress> at, const std::string& proc) {
  const std::string process = proc + "/" + (pid == 0 ? "self" : std::to_string(pid));
  const auto wanted = first_file_at(process + "/maps", at);
  if (!wanted) return {};
  BackingFile found{.is_there = true, .file = reach(*wanted, process)};
  if (found.file.valid() && !file_system_limit(found.file)) found.file.reset();
  return found;
}

MemoryLimits MemoryLimits::of_process(pid_t pid, std::shared_ptr<const BackingFile> file,
                                      std::string proc) {
  MemoryLimits limits(pid, std::move(file), std::move(proc));
  limits.mounts_ = CgroupMounts::find(limits.proc_);
  return limits;
}

std::vector<MemoryLimit> MemoryLimits::read() const {
  std::vector<MemoryLimit> limits;
  if (const auto cgroup = MemoryCgroup::of_process(pid_, mounts_, proc_)) {
    for (const CgroupMemory& level : cgroup->limited_levels()) {
      limits.push_back(
          {MemoryLimit::Of::kCgroup, level.most, level.most - std::min(level.most, level.used)});
    }
  }
  if (file_ != nullptr && file_->file.valid()) {
    if (const auto left = file_system_limit(file_->file)) limits.push_back(*left);
  }
  if (const auto host = host_limit(proc_)) limits.push_back(*host);
  return limits;
}

}  // namespace thaw
