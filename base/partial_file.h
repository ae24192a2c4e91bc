#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/place.h"
#include "base/unfinished_name.h"
#include "base/unique_fd.h"

namespace thaw {

/// A file that appears under its name whole or not at all. Until then it has no name at all, or a
/// temporary one in the same directory where the file system wants one. It replaces a regular file
/// alone, and takes over the mode and owner of that file; otherwise its mode is 0600.
///
/// Destroyed before publish(), it leaves nothing. One thread.
class PartialFile {
 public:
  /// kAlreadyExists when `path` is there and no regular file, and for a symbolic link too: a
  /// caller that may follow links calls find_target() first. kPermission when the owner cannot be
  /// kept.
  static Result<PartialFile> create(const std::string& path);
  /// At `place`, which is that of `path`, for this process's user alone: mode and owner of what it
  /// replaces are lost.
  static Result<PartialFile> create_private(const std::string& path, Place place);
  PartialFile(PartialFile&&) = default;
  PartialFile& operator=(PartialFile&&) = delete;

  const UniqueFd& fd() const { return fd_; }
  const std::string& path() const { return path_; }
  Result<void> give_to(FileOwner owner);
  /// Makes the content durable and visible under its name.
  Result<void> publish() { return publish_together({this}); }
  /// The same for files that belong together: all are durable before the first one appears.
  static Result<void> publish_together(std::initializer_list<PartialFile*> files);

  /// Whether both would appear under the same name.
  bool has_name_of(const PartialFile& other) const { return same_place(place_, other.place_); }
  /// What the file system still has for this file; nothing when it does not tell.
  Result<std::optional<ByteCount>> room() const;

 private:
  PartialFile(std::string path, Place place) : path_(std::move(path)), place_(std::move(place)) {}

  /// Checks what the file will replace.
  Result<void> look_at_target();
  Result<void> open();
  Result<void> keep_mode_and_owner();
  /// Gives a file without a name its temporary one.
  Result<void> give_temporary_name();

  std::string path_;
  Place place_;
  struct Replaced {
    FileOwner owner;
    mode_t mode;
  };
  std::optional<Replaced> replaced_;
  UnfinishedName temporary_;  // none: the file has no name yet
  UniqueFd fd_;
};

/// Writes a whole file through a PartialFile.
Result<void> write_whole_file(const std::string& path, ByteSpan content);

}  // namespace thaw
