#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/place.h"
#include "base/unfinished_name.h"
#include "base/unique_fd.h"

namespace thaw {

/// A UNIX socket that listens already and has a temporary name in its directory until it is
/// published. Its mode is 0600. Destroyed before, it leaves nothing. One thread.
class NewListener {
 public:
  /// For `place`, which is that of `path`. kAlreadyExists when another program listens there or it
  /// is no socket; a socket file that is stale is replaced.
  static Result<NewListener> create(const std::string& path, Place place,
                                    std::optional<FileOwner> owner);

  const UniqueFd& listener() const { return listener_; }
  const UniqueFd& directory() const { return place_.directory; }
  /// The socket in the file system (O_PATH).
  const UniqueFd& file() const { return file_; }

  /// Gives the socket its name, and never that of another file: kAlreadyExists.
  Result<void> publish();
  UniqueFd take() && { return std::move(listener_); }

 private:
  NewListener(std::string path, Place place) : path_(std::move(path)), place_(std::move(place)) {}

  /// Looks for what is in the way. Returns a stale socket; none: the name is free.
  Result<UniqueFd> stale_socket() const;
  Result<void> bind(std::optional<FileOwner> owner);

  std::string path_;
  Place place_;
  UnfinishedName temporary_;
  UniqueFd listener_;
  UniqueFd file_;
};

/// Whether it is a UNIX stream socket that listens. It does not block from now on.
bool is_listener(const UniqueFd& socket);

}  // namespace thaw
