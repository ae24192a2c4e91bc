#pragma once

#include <optional>
#include <string>

#include "base/error.h"

namespace thaw {

/// What a path that a user gave leads to.
struct PathTarget {
  /// Without symbolic links at its end. There need not be anything.
  std::string path;
  /// Set when the path names a descriptor of this process, such as /dev/stdout or /dev/fd/3.
  std::optional<int> descriptor;
};

/// "-" stands for the descriptor `dash`. kIo when links lead in a circle.
Result<PathTarget> find_target(const std::string& path, int dash);

/// Whether this is a file of /proc or /sys, whose size says nothing; false also when nothing is
/// there.
bool is_kernel_file(const std::string& path);

}  // namespace thaw
