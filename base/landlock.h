#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace thaw {

/// What a server may open is what its user may open, and root may open everything. Landlock (Linux
/// 5.13) takes the rest of the file system away, whatever the server is made to do. Descriptors
/// that are open or that others pass stay as they are.

/// Files, and directories with all that is below them. A path that leads nowhere counts for
/// nothing.
struct FilesLeft {
  std::vector<std::string> read{};
  std::vector<std::string> write{};  // and read; names in them are made, changed and removed
};

/// The directory that a path is in.
std::string directory_of(const std::string& path);
/// Where a file is, and where the next one will be that replaces it: by a new file or by another
/// link, in its directory, behind a link, or where its directory is a link (..data of Kubernetes).
std::vector<std::string> places_of(const std::string& file);
/// The log's directory, where SIGHUP makes a new file. A pipe or device is never made anew.
std::string log_place(const std::string& file);

/// Takes all other files away from this thread and from those that it starts. Programs that they
/// become inherit that, and may look into no process but those that inherit it, too (ptrace(2),
/// /proc/PID/maps). Returns what the kernel cannot take away, for the log; empty: nothing is left.
/// REQUIRES: no_new_privs.
Result<std::string> leave_files(const FilesLeft& left);

}  // namespace thaw
