#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"

namespace thaw {

/// Tells when one of some files has been changed or replaced. Looks at them at most once a second
/// (limits::kFileWatchInterval). Locks itself.
class FileWatch {
 public:
  /// What changes from now on is told of: make it before reading the files.
  explicit FileWatch(std::vector<std::string> paths);

  /// Whether they are others than when this was last said.
  bool changed();

 private:
  struct Stamp {
    std::uint64_t device = 0;  // all 0: there is no such file
    std::uint64_t inode = 0;
    std::int64_t bytes = 0;
    std::int64_t changed_ns = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  std::vector<Stamp> look() const;

  const std::vector<std::string> paths_;
  std::mutex mutex_;
  std::vector<Stamp> seen_;      // guarded by mutex_
  Clock::time_point next_look_;  // guarded by mutex_
};

}  // namespace thaw
