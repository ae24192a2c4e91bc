#include "base/socket.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <memory>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/passed_descriptors.h"

namespace thaw {

namespace {

const sockaddr* as_sockaddr(const sockaddr_storage& storage) {
  // SAFETY: sockaddr_storage exists to be passed as sockaddr.
  return reinterpret_cast<const sockaddr*>(&storage);
}

constexpr std::string_view kUnixPrefix = "unix:";
constexpr std::size_t kUnixPathAt = offsetof(sockaddr_un, sun_path);

bool names_unix(const std::string& address) { return address.starts_with(kUnixPrefix); }

Result<TcpAddress> unix_address(const std::string& text) {
  const std::string path = text.substr(kUnixPrefix.size());
  if (!path.starts_with('/') || path.ends_with('/') || path.contains('\0')) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is not unix: and an absolute path", text);
  }
  if (path.size() > limits::kMaxSocketPath) {
    return fail(ErrorCode::kInvalidArgument, "the path of the socket {} has more than {} bytes",
                path, limits::kMaxSocketPath);
  }
  TcpAddress address;
  // SAFETY: sockaddr_storage has room for every family's address.
  auto& named = reinterpret_cast<sockaddr_un&>(address.storage);
  named.sun_family = AF_UNIX;
  path.copy(named.sun_path, path.size());
  address.length = static_cast<socklen_t>(kUnixPathAt + path.size() + 1);
  return address;
}

bool is_unix_socket(const UniqueFd& socket) {
  int domain = 0;
  socklen_t length = sizeof(domain);
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
         domain == AF_UNIX;
}

Result<void> wait_until_ready(const UniqueFd& socket, short events, Deadline deadline) {
  while (true) {
    pollfd request{.fd = socket.get(), .events = events, .revents = 0};
    const int n = ::poll(&request, 1, deadline.milliseconds_left());
    if (n > 0) return {};
    if (n < 0 && errno != EINTR) return fail_errno("poll");
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "the peer did not answer in time");
  }
}

/// Finishes a non-blocking connect.
Result<void> finish_connect(const UniqueFd& socket, const TcpAddress& address, Deadline deadline) {
  if (auto ready = wait_until_ready(socket, POLLOUT, deadline); !ready) return ready;
  int error_number = 0;
  socklen_t length = sizeof(error_number);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error_number, &length) != 0) {
    return fail_errno("getsockopt SO_ERROR");
  }
  if (error_number != 0) return fail_errno("connect to " + address.text(), error_number);
  return {};
}

}  // namespace

bool TcpAddress::is_unix() const { return storage.ss_family == AF_UNIX; }

std::string TcpAddress::unix_path() const {
  // SAFETY: the family says which sockaddr this is; the path ends with a zero.
  return reinterpret_cast<const sockaddr_un&>(storage).sun_path;
}

bool TcpAddress::is_loopback() const {
  if (is_unix()) return false;
  if (storage.ss_family == AF_INET) {
    // SAFETY: the family says which sockaddr this is.
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(storage);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  }
  // SAFETY: resolve_tcp yields no other family.
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(storage);
  return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

std::string TcpAddress::text() const {
  if (is_unix()) return std::string(kUnixPrefix) + unix_path();
  std::array<char, NI_MAXHOST> host;
  std::array<char, NI_MAXSERV> port;
  if (::getnameinfo(as_sockaddr(storage), length, host.data(), host.size(), port.data(),
                    port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "(no address)";
  }
  const bool v6 = storage.ss_family == AF_INET6;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", host.data(), v6 ? "]" : "", port.data());
}

Result<TcpAddress> resolve_tcp(const std::string& host_and_port) {
  return TRY(resolve_tcp_all(host_and_port)).front();
}

Result<HostAndPort> split_host_and_port(const std::string& host_and_port) {
  const std::size_t colon = host_and_port.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == host_and_port.size()) {
    const bool is_path = host_and_port.starts_with('/');
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is not HOST:PORT{}", host_and_port,
                is_path ? "; for a socket write unix:" + host_and_port : "");
  }
  const std::string_view port = std::string_view(host_and_port).substr(colon + 1);
  std::uint16_t number = 0;
  const auto [end, error] = std::from_chars(port.begin(), port.end(), number);
  if (error != std::errc{} || end != port.end()) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" names no port from 0 to 65535", host_and_port);
  }
  std::string host = host_and_port.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return HostAndPort{std::move(host), std::string(port)};
}

namespace {

/// What getaddrinfo() is to look for: TCP of either family.
addrinfo stream_hints(int flags) {
  return {.ai_flags = flags,
          .ai_family = AF_UNSPEC,
          .ai_socktype = SOCK_STREAM,
          .ai_protocol = 0,
          .ai_addrlen = 0,
          .ai_addr = nullptr,
          .ai_canonname = nullptr,
          .ai_next = nullptr};
}

}  // namespace

Result<void> check_address(const std::string& address) {
  if (names_unix(address)) {
    TRY(unix_address(address));
  } else {
    TRY(split_host_and_port(address));
  }
  return {};
}

bool is_numeric(const std::string& address) {
  if (names_unix(address)) return true;
  const auto parts = split_host_and_port(address);
  if (!parts) return false;
  const addrinfo hints = stream_hints(AI_NUMERICHOST);
  addrinfo* found = nullptr;
  if (::getaddrinfo(parts->host.c_str(), nullptr, &hints, &found) != 0) return false;
  ::freeaddrinfo(found);
  return true;
}

Result<std::vector<TcpAddress>> resolve_tcp_all(const std::string& host_and_port) {
  if (names_unix(host_and_port)) return std::vector{TRY(unix_address(host_and_port))};
  const auto [host, port] = TRY(split_host_and_port(host_and_port));
  const addrinfo hints = stream_hints(AI_NUMERICSERV | AI_ADDRCONFIG);
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (status != 0) {
    return fail(ErrorCode::kUnavailable, "{}: {}", host_and_port, ::gai_strerror(status));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, &::freeaddrinfo);
  std::vector<TcpAddress> addresses;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    TcpAddress address;
    address.length = each->ai_addrlen;
    std::memcpy(&address.storage, each->ai_addr, each->ai_addrlen);
    if (std::ranges::find(addresses, address) == addresses.end()) addresses.push_back(address);
  }
  return addresses;
}

Result<UniqueFd> create_tcp_socket(const TcpAddress& address) {
  UniqueFd socket(
      ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return fail_errno("socket");
  if (address.is_unix()) {
    static_cast<void>(refuse_descriptors(socket));
    return socket;
  }
  const int on = 1;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0 ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) != 0) {
    return fail_errno("setsockopt");
  }
  return socket;
}

Result<UniqueFd> listen_tcp(const TcpAddress& address) {
  if (address.is_unix()) {
    UniqueFd listener = TRY(listen_unix(address.unix_path(), std::nullopt));
    static_cast<void>(refuse_descriptors(listener));
    return listener;
  }
  UniqueFd socket = TRY(create_tcp_socket(address));
  const int on = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(socket.get(), as_sockaddr(address.storage), address.length) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0) {
    return fail_errno("listen on " + address.text());
  }
  return socket;
}

Result<TcpAddress> peer_address(const UniqueFd& connection) {
  TcpAddress address;
  address.length = sizeof(address.storage);
  // SAFETY: sockaddr_storage exists to be passed as sockaddr.
  auto* const raw = reinterpret_cast<sockaddr*>(&address.storage);
  if (::getpeername(connection.get(), raw, &address.length) != 0) return fail_errno("getpeername");
  return address;
}

Result<UniqueFd> connect_tcp(const TcpAddress& address, Deadline deadline) {
  if (address.is_unix()) return connect_unix_for_bytes(address.unix_path(), deadline);
  UniqueFd socket = TRY(create_tcp_socket(address));
  if (::connect(socket.get(), as_sockaddr(address.storage), address.length) != 0) {
    if (errno != EINPROGRESS) return fail_errno(fmt::format("connect to {}", address.text()));
    TRY(finish_connect(socket, address, deadline));
  }
  return socket;
}

std::size_t send_at_once(const UniqueFd& socket, ByteSpan bytes) {
  const ssize_t n = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return n < 0 ? 0 : static_cast<std::size_t>(n);
}

Result<void> send_all(const UniqueFd& socket, ByteSpan bytes, Deadline deadline) {
  return send_all(socket, std::span(&bytes, 1), deadline);
}

Result<void> send_all(const UniqueFd& socket, std::span<const ByteSpan> pieces, Deadline deadline) {
  std::vector<iovec> vectors;
  for (const ByteSpan piece : pieces) {
    // SAFETY: sendmsg only reads through iov_base.
    vectors.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
  }
  std::span<iovec> rest(vectors);
  while (true) {
    while (!rest.empty() && rest.front().iov_len == 0) rest = rest.subspan(1);
    if (rest.empty()) return {};
    msghdr message{};
    message.msg_iov = rest.data();
    message.msg_iovlen = std::min<std::size_t>(rest.size(), IOV_MAX);
    const ssize_t n = ::sendmsg(socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) {
      TRY(wait_until_ready(socket, POLLOUT, deadline));
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("send");
    auto sent = static_cast<std::size_t>(n);
    for (iovec& vector : rest) {
      const std::size_t step = std::min(sent, vector.iov_len);
      vector.iov_base = static_cast<std::byte*>(vector.iov_base) + step;
      vector.iov_len -= step;
      sent -= step;
      if (sent == 0) break;
    }
  }
}

Result<std::size_t> receive_some(const UniqueFd& socket, MutableByteSpan to, Deadline deadline) {
  while (true) {
    const ssize_t n = ::recv(socket.get(), to.data(), to.size(), MSG_DONTWAIT);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno == EAGAIN) {
      TRY(wait_until_ready(socket, POLLIN, deadline));
    } else if (errno != EINTR) {
      return fail_errno("receive");
    }
  }
}

Result<void> receive_all(const UniqueFd& socket, MutableByteSpan to, Deadline deadline) {
  std::size_t filled = 0;
  while (filled < to.size()) {
    const std::size_t n = TRY(receive_some(socket, to.subspan(filled), deadline));
    if (n == 0) {
      const ErrorCode code = filled == 0 ? ErrorCode::kUnavailable : ErrorCode::kTruncated;
      return fail(code, "the peer closed the connection");
    }
    filled += n;
  }
  return {};
}

Result<void> make_blocking(const UniqueFd& socket) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return fail_errno("fcntl");
  }
  if (is_unix_socket(socket)) return {};  // the kernel tells at once when the peer has gone
  for (const auto& [option, value] :
       {std::pair{TCP_KEEPIDLE, 60}, std::pair{TCP_KEEPINTVL, 10}, std::pair{TCP_KEEPCNT, 6}}) {
    if (::setsockopt(socket.get(), IPPROTO_TCP, option, &value, sizeof(value)) != 0) {
      return fail_errno("setsockopt");
    }
  }
  const int on = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) != 0) {
    return fail_errno("setsockopt");
  }
  return {};
}

Result<std::size_t> receive_resting(const UniqueFd& socket, MutableByteSpan to) {
  while (true) {
    const ssize_t n = ::recv(socket.get(), to.data(), to.size(), 0);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) return fail_errno("receive");
  }
}

bool is_to_this_host(const UniqueFd& socket) {
  if (is_unix_socket(socket)) return true;
  const auto name_of = [&socket](auto get) {
    TcpAddress address;
    address.length = sizeof(address.storage);
    // SAFETY: sockaddr_storage exists to be passed as sockaddr.
    auto* const raw = reinterpret_cast<sockaddr*>(&address.storage);
    if (get(socket.get(), raw, &address.length) != 0) return std::string();
    const std::string text = address.text();
    return text.substr(0, text.rfind(':'));
  };
  const std::string own = name_of(::getsockname);
  return !own.empty() && own == name_of(::getpeername);
}

std::optional<int> incoming_cpu(const UniqueFd& socket) {
  int cpu = -1;
  socklen_t size = sizeof(cpu);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_INCOMING_CPU, &cpu, &size) != 0) return {};
  if (cpu < 0) return std::nullopt;
  return cpu;
}

void shut_down(const UniqueFd& socket) {
  if (socket.valid()) ::shutdown(socket.get(), SHUT_RDWR);
}

void shut_down_sending(const UniqueFd& socket) {
  if (socket.valid()) ::shutdown(socket.get(), SHUT_WR);
}

void shut_down_receiving(const UniqueFd& socket) {
  if (socket.valid()) ::shutdown(socket.get(), SHUT_RD);
}

}  // namespace thaw
