#pragma once

#include <string>

#include <sys/socket.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// A socket's path as bind and connect take it: at most limits::kMaxSocketPath bytes. A longer one
/// is reached through its directory, which is kept open for that.
class UnixAddress {
 public:
  /// kInvalidArgument where no address can lead there.
  static Result<UnixAddress> of(const std::string& path);
  /// Of a name in a directory that outlives it; an empty name: of the socket file itself (O_PATH).
  static UnixAddress through(const UniqueFd& directory, const std::string& name);

  /// connect(2) or bind(2) with it.
  template <typename Call>
  int with(Call call, const UniqueFd& socket) const {
    // SAFETY: bind and connect take every family's address as sockaddr.
    return call(socket.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof(address_));
  }

 private:
  UnixAddress() { address_.sun_family = AF_UNIX; }

  UniqueFd directory_;
  sockaddr_un address_{};
};

/// Of UNIX domain, for a stream, non-blocking.
Result<UniqueFd> create_unix_socket();

}  // namespace thaw
