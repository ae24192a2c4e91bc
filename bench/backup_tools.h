#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace thaw::bench {

/// What people keep snapshots with when they have no store for them.
struct Backup {
  double seconds = 0;  // that keeping the files took
  double bytes = 0;    // of the repository after its upkeep
};

/// Both make a new repository in the directory, without encryption where that can be chosen, and
/// leave it there. The files are kept in one go.
Result<Backup> back_up_with_restic(const std::vector<std::string>& files,
                                   const std::string& directory);
/// Cuts files into pieces of 4 KiB. `compression` as borg names it.
Result<Backup> back_up_with_borg(const std::vector<std::string>& files,
                                 const std::string& directory, const std::string& compression);

/// Sizes of all files below a directory.
double directory_bytes(const std::string& directory);

}  // namespace thaw::bench
