#pragma once

#include <string>

#include <sys/types.h>

#include "base/error.h"
#include "base/file.h"
#include "base/unique_fd.h"

namespace thaw {

namespace limits {
/// Symbolic links in one path, as many as the kernel follows.
inline constexpr unsigned kMostLinks = 40;
}  // namespace limits

/// A path names another object as soon as a user renames a directory or puts a link there. A place
/// is found once: a directory that is held open, and a name in it. What is done at the place later
/// is done in that very directory.
struct Place {
  UniqueFd directory;  // O_PATH
  std::string name;    // not empty, no "." or ".."
};

/// Finds the directory of `path`, with this process's rights. A directory that a user other than
/// root and this process's may change is not trusted to lead on: from there on no symbolic link is
/// followed, and if the directory belongs to such a user, all that follow have to be that user's.
/// kPermission otherwise; kNotFound, kInvalidArgument for a path that names a directory.
Result<Place> find_place(const std::string& path);
/// Finds the file or directory that `path` leads to, links followed, where no other user could have
/// it lead elsewhere, and opens it (O_PATH). Each directory and link on the way belongs to root or
/// to this process's user, and no others may write the directory; kPermission otherwise. In a
/// sticky one (/tmp) others may make names, so there no name may be theirs or a further one of a
/// file.
/// Directories above a relative path's beginning are not looked at. Never waits.
Result<UniqueFd> find_trusted(const std::string& path);
/// The name alone.
std::string last_component(const std::string& path);
bool same_place(const Place& one, const Place& other);

/// Opens what stands at the place itself (O_PATH), be it a link. Never waits. kNotFound.
Result<UniqueFd> open_entry(const Place& place);
/// Removes the name `name` from the directory if it stands for `file`. Success when it does not.
Result<void> remove_entry(const UniqueFd& directory, const std::string& name, const UniqueFd& file);

/// Refuses the directory at which `path` is to be made if its file system may keep a call waiting
/// for another process or host, as FUSE and network file systems do, or is none that is known not
/// to. kUnsupported. On such a one this call may last, too.
Result<void> check_never_waits(const UniqueFd& directory, const std::string& path);

/// The user and the group of the file, be it open as a path alone (O_PATH).
Result<FileOwner> file_owner(const UniqueFd& file);

enum class ObjectKind { kRegularFile, kDirectory, kSocketFile };
bool is_kind(const UniqueFd& object, ObjectKind kind);

}  // namespace thaw
