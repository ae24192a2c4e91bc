#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/types.h"

namespace thaw {

/// What a memory cgroup that has a limit may use, and uses.
struct CgroupMemory {
  ByteCount most;
  ByteCount used;  // without the page cache that the kernel would drop first
};

/// A hierarchy of cgroups as it is mounted here.
struct CgroupMount {
  std::filesystem::path root;  // the part of it that is mounted
  std::filesystem::path at;
};
/// Those that may have the memory controller.
struct CgroupMounts {
  std::optional<CgroupMount> first;   // of version 1, with that controller
  std::optional<CgroupMount> second;  // of version 2
  /// From /proc/self/mountinfo, which may be long. `proc` is where /proc is.
  static CgroupMounts find(const std::string& proc = "/proc");
};

/// Where a process's memory is charged: its cgroup in the hierarchy with the memory controller, be
/// that of version 1 or 2. Immutable.
class MemoryCgroup {
 public:
  /// From /proc/PID/cgroup; pid 0: this process. Nothing where no such hierarchy can be seen here.
  static std::optional<MemoryCgroup> of_process(pid_t pid, const CgroupMounts& mounts,
                                                const std::string& proc = "/proc");

  /// The cgroup and those above it, as far as each has a limit. Reads a few small files for each
  /// level.
  std::vector<CgroupMemory> limited_levels() const;

 private:
  enum class Version { kOne, kTwo };
  MemoryCgroup(Version version, std::filesystem::path mount, std::filesystem::path path)
      : version_(version), mount_(std::move(mount)), path_(std::move(path)) {}
  std::optional<CgroupMemory> level(const std::filesystem::path& at) const;

  Version version_;
  std::filesystem::path mount_;
  std::filesystem::path path_;  // below the mount
};

}  // namespace thaw
