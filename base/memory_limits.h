#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "base/memory_cgroup.h"
#include "base/process_maps.h"
#include "base/types.h"
#include "base/unique_fd.h"

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

/// The file behind memory of a process.
struct BackingFile {
  bool is_there = false;
  UniqueFd
      file{};  // O_PATH; not valid: its file system has no limit, or the file cannot be reached
};
/// What the process has mapped at one of these addresses; pid 0: this process. `proc` is where
/// /proc is. Needs the right to trace the process, which may make this take as long as it likes.
BackingFile backing_file_of(pid_t pid, std::span<const HostAddress> at,
                            const std::string& proc = "/proc");

/// The limits of the memory of a process. Immutable; any thread may read it, but both functions
/// read files under /proc and below the cgroup's mount.
class MemoryLimits {
 public:
  /// pid 0: this process. `file` is behind the memory; nullptr: none is known. `proc` is where
  /// /proc is. What cannot be found out is left out.
  static MemoryLimits of_process(pid_t pid, std::shared_ptr<const BackingFile> file,
                                 std::string proc = "/proc");

  /// What is left now. The process may have been moved to another cgroup since.
  std::vector<MemoryLimit> read() const;

 private:
  MemoryLimits(pid_t pid, std::shared_ptr<const BackingFile> file, std::string proc)
      : pid_(pid), file_(std::move(file)), proc_(std::move(proc)) {}

  pid_t pid_;
  std::shared_ptr<const BackingFile> file_;
  std::string proc_;
  CgroupMounts mounts_;
};

}  // namespace thaw
