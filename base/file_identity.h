#pragma once

#include <optional>
#include <string>

#include <sys/types.h>

#include "base/error.h"

namespace thaw {

/// Names one file while it exists, whatever its path stands for later.
struct FileIdentity {
  dev_t device;
  ino_t inode;
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};
/// Of the file that has this name now; links are followed.
Result<FileIdentity> file_identity(const std::string& path);
/// Of the socket that has this name now; nothing when there is none, or something else.
std::optional<FileIdentity> socket_identity(const std::string& path);

/// Removes a name only if it still stands for that file.
void remove_file(const std::string& path, const FileIdentity& file);

}  // namespace thaw
