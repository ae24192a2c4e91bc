#include "base/unix_address.h"

#include <fcntl.h>

#include "base/check.h"
#include "base/limits.h"

namespace thaw {

Result<UnixAddress> UnixAddress::of(const std::string& path) {
  if (path.empty()) return fail(ErrorCode::kInvalidArgument, "a socket's path is empty");
  if (path.find('\0') != std::string::npos) {
    return fail(ErrorCode::kInvalidArgument, "a socket's path has a byte 0 in it");
  }
  UnixAddress address;
  if (path.size() <= limits::kMaxSocketPath) {
    path.copy(address.address_.sun_path, path.size());
    return address;
  }
  const std::size_t slash = path.rfind('/');
  if (slash != std::string::npos) {
    const std::string directory = path.substr(0, slash + 1);
    address.directory_ = UniqueFd(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!address.directory_.valid()) return fail_errno(fmt::format("open {}", directory));
  }
  const std::string shorter =
      fmt::format("/proc/self/fd/{}/{}", address.directory_.get(), path.substr(slash + 1));
  if (slash == std::string::npos || shorter.size() > limits::kMaxSocketPath) {
    return fail(ErrorCode::kInvalidArgument, "the name of the socket {} is too long", path);
  }
  shorter.copy(address.address_.sun_path, shorter.size());
  return address;
}

UnixAddress UnixAddress::through(const UniqueFd& directory, const std::string& name) {
  UnixAddress address;
  std::string path = fmt::format("/proc/self/fd/{}", directory.get());
  if (!name.empty()) path += "/" + name;
  CHECK(path.size() <= limits::kMaxSocketPath);
  path.copy(address.address_.sun_path, path.size());
  return address;
}

Result<UniqueFd> create_unix_socket() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail_errno("socket");
  return socket;
}

}  // namespace thaw
