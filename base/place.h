#pragma once

#include <string>

#include <sys/types.h>

#include "base/error.h"
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
/// The name alone.
std::string last_component(const std::string& path);
bool same_place(const Place& one, const Place& other);

/// Opens what stands at the place itself (O_PATH), be it a link. Never waits. kNotFound.
Result<UniqueFd> open_entry(const Place& place);
/// Removes the name `name` from the directory if it stands for `file`. Success when it does not.
Result<void> remove_entry(const UniqueFd& directory, const std::string& name, const UniqueFd& file);

/// The user who owns the file.
Result<uid_t> file_user(const UniqueFd& file);

enum class ObjectKind { kRegularFile, kDirectory, kSocketFile };
bool is_kind(const UniqueFd& object, ObjectKind kind);

}  // namespace thaw
