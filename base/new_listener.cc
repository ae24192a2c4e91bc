#include "base/new_listener.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/unix_address.h"

namespace thaw {

namespace {

bool has_socket_option(const UniqueFd& socket, int option, int wanted) {
  int value = 0;
  socklen_t length = sizeof(value);
  return ::getsockopt(socket.get(), SOL_SOCKET, option, &value, &length) == 0 && value == wanted;
}

}  // namespace

Result<NewListener> NewListener::create(const std::string& path, Place place,
                                        std::optional<FileOwner> owner) {
  TRY(UnixAddress::of(path));
  NewListener made(path, std::move(place));
  TRY(made.stale_socket());
  TRY(made.bind(owner));
  return made;
}

Result<UniqueFd> NewListener::stale_socket() const {
  auto there = open_entry(place_);
  if (!there) {
    if (there.error().code() == ErrorCode::kNotFound) return UniqueFd();
    return std::unexpected(there.error());
  }
  if (!is_kind(*there, ObjectKind::kSocketFile)) {
    return fail(ErrorCode::kAlreadyExists, "{} exists and is no socket", path_);
  }
  const UniqueFd probe = TRY(create_unix_socket());
  if (UnixAddress::through(*there, "").with(::connect, probe) == 0 || errno != ECONNREFUSED) {
    return fail(ErrorCode::kAlreadyExists, "{} is in use by another process", path_);
  }
  return *std::move(there);
}

Result<void> NewListener::bind(std::optional<FileOwner> owner) {
  listener_ = TRY(create_unix_socket());
  // The socket file gets the descriptor's mode when it is bound, so there is no moment at which
  // others may connect.
  if (::fchmod(listener_.get(), 0600) != 0) return fail_errno("fchmod of a socket");
  UnfinishedName drawn = TRY(UnfinishedName::draw(place_.directory));
  const Place temporary{TRY(duplicate(place_.directory)), drawn.text()};
  if (UnixAddress::through(place_.directory, drawn.text()).with(::bind, listener_) != 0) {
    const int error_number = errno;
    drawn.forget();
    return fail_errno(fmt::format("bind {}", path_), error_number);
  }
  temporary_ = std::move(drawn);
  file_ = TRY(open_entry(temporary));
  struct stat status{};
  if (::fstat(file_.get(), &status) != 0) return fail_errno("fstat");
  // The directory's owner may have put another file there meanwhile.
  if (!S_ISSOCK(status.st_mode) || status.st_uid != ::geteuid() || status.st_nlink != 1) {
    return fail(ErrorCode::kPermission, "the socket for {} was replaced while it was made", path_);
  }
  if (owner && ::fchownat(file_.get(), "", owner->uid, owner->gid,
                          AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) {
    return fail_errno(fmt::format("chown {}", path_));
  }
  if (::listen(listener_.get(), SOMAXCONN) != 0) {
    return fail_errno(fmt::format("listen on {}", path_));
  }
  return {};
}

Result<void> NewListener::publish() {
  const UniqueFd stale = TRY(stale_socket());
  if (stale.valid()) TRY(remove_entry(place_.directory, place_.name, stale));
  if (::linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", file_.get()).c_str(),
               place_.directory.get(), place_.name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    return fail_errno(fmt::format("name the socket {}", path_));
  }
  temporary_ = UnfinishedName();
  return {};
}

bool is_listener(const UniqueFd& socket) {
  if (!has_socket_option(socket, SO_DOMAIN, AF_UNIX)) return false;
  if (!has_socket_option(socket, SO_TYPE, SOCK_STREAM)) return false;
  if (!has_socket_option(socket, SO_ACCEPTCONN, 1)) return false;
  const int flags = ::fcntl(socket.get(), F_GETFL);
  return flags >= 0 && ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) == 0;
}

}  // namespace thaw
