#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "base/memory_cgroup.h"
#include "base/process_maps.h"
#include "base/types.h"

namespace thaw {

/// One of the limits that a process's memory runs into.
struct MemoryLimit {
  enum class Of : std::uint8_t {
    kCgroup,      // its memory cgroup, or one above it
    kFileSystem,  // the tmpfs of the file behind the memory, or the pool of its huge pages
    kHost,
  };
  Of of;
  ByteCount most;
  ByteCount free;
  friend bool operator==(const MemoryLimit&, const MemoryLimit&) = default;
};
/// "the tmpfs behind guest memory".
std::string_view memory_limit_name(MemoryLimit::Of of);

/// The limits of the memory that a process has mapped at some addresses. Immutable; any thread may
/// read it, but both functions read files under /proc and below the cgroup's mount.
class MemoryLimits {
 public:
  /// pid 0: this process. `proc` is where /proc is. What cannot be found out is left out.
  static MemoryLimits of_process(pid_t pid, std::span<const AddressRange> memory,
                                 std::string proc = "/proc");

  /// What is left now. The process may have been moved to another cgroup since.
  std::vector<MemoryLimit> read() const;
  /// Whether a page of zeros takes memory: a file has pages of its own.
  bool has_file() const { return has_file_; }

 private:
  MemoryLimits(pid_t pid, std::string proc) : pid_(pid), proc_(std::move(proc)) {}
  /// Looks for a path by which the file's file system can be asked.
  void find_file(std::span<const AddressRange> memory);
  bool is_file(const std::string& path) const;

  pid_t pid_;
  std::string proc_;
  CgroupMounts mounts_;
  bool has_file_ = false;
  std::uint64_t device_ = 0;
  std::uint64_t inode_ = 0;
  std::string path_;  // empty: not known
};

}  // namespace thaw
