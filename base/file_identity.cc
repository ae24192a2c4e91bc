#include "base/file_identity.h"

#include <sys/stat.h>

#include "base/file.h"

namespace thaw {

Result<FileIdentity> file_identity(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return fail_errno("stat " + path);
  return FileIdentity{status.st_dev, status.st_ino};
}

std::optional<FileIdentity> socket_identity(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return std::nullopt;
  return FileIdentity{status.st_dev, status.st_ino};
}

void remove_file(const std::string& path, const FileIdentity& file) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return;
  if (status.st_dev == file.device && status.st_ino == file.inode) remove_file(path);
}

}  // namespace thaw
