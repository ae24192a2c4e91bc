#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/socket.h"
#include "base/tls.h"

namespace thaw {

/// What a program is told of TLS by its flags.
struct TransportFlags {
  TlsFiles tls{};         // all empty: without TLS
  bool insecure = false;  // plain TCP is allowed
};

/// nullptr without TLS. kInvalidArgument when some of the files are named and others are not;
/// otherwise as TlsContext::load().
Result<std::shared_ptr<TlsContext>> load_tls(const TransportFlags& flags, TlsContext::Side side);
/// Where a page server listens, and its clients look for it, unless they are told.
inline constexpr const char* kDefaultServer = "unix:/run/thaw/pageserver/server.sock";

/// kInvalidArgument unless the peers at `address` are known by certificates or by the kernel (a
/// UNIX socket), or plain TCP is allowed. On loopback, too, every user of the host reaches a port.
/// TLS is for TCP alone.
Result<void> check_transport(const TcpAddress& address, const TransportFlags& flags);

/// A page server as its clients know it. A value.
struct ServerAddress {
  ServerAddress() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): an address is one of a server without TLS.
  ServerAddress(TcpAddress address) : tcp(address) {}
  ServerAddress(TcpAddress address, std::string name, std::shared_ptr<TlsContext> context)
      : tcp(address), host(std::move(name)), tls(std::move(context)) {}

  std::string text() const { return tcp.text(); }

  TcpAddress tcp;
  std::string host;                 // that its certificate must be for
  std::shared_ptr<TlsContext> tls;  // nullptr: plain TCP
};

/// All addresses of HOST:PORT or unix:PATH, for connections with this context. kInvalidArgument
/// where the flags do not allow one.
Result<std::vector<ServerAddress>> resolve_servers(const std::string& host_and_port,
                                                   const TransportFlags& flags,
                                                   const std::shared_ptr<TlsContext>& tls);
/// The first of them, with a context of its own of what the flags name.
Result<ServerAddress> resolve_server(const std::string& host_and_port, const TransportFlags& flags);

/// A connection of TCP or of a UNIX socket, with TLS or without, for blocking work with deadlines;
/// its failures are those of base/socket.h, and kTls. One thread at a time.
class Stream {
 public:
  explicit Stream(UniqueFd socket) : socket_(std::move(socket)) {}
  /// Goes on with a session whose handshake is done, and whose outbox is empty.
  Stream(UniqueFd socket, std::optional<TlsSession> tls)
      : socket_(std::move(socket)), tls_(std::move(tls)) {}
  static Result<Stream> connect(const ServerAddress& server, Deadline deadline);

  const UniqueFd& socket() const { return socket_; }
  /// Nothing without TLS.
  std::optional<TlsPeer> peer() const { return tls_ ? std::optional(tls_->peer()) : std::nullopt; }

  Result<void> send(std::span<const ByteSpan> pieces, Deadline deadline);
  Result<std::size_t> receive_some(MutableByteSpan to, Deadline deadline);
  Result<void> receive_all(MutableByteSpan to, Deadline deadline);
  /// As receive_resting() of a socket. REQUIRES: make_blocking() of the socket.
  Result<std::size_t> receive_resting(MutableByteSpan to);

 private:
  Result<void> shake_hands(Deadline deadline);
  Result<void> send_outbox(Deadline deadline);
  /// Receives ciphertext by `receive` until there are plain bytes; 0 when the peer has closed.
  template <typename Receive>
  Result<std::size_t> receive_sealed(MutableByteSpan to, const Receive& receive);

  UniqueFd socket_;
  std::optional<TlsSession> tls_;
  std::shared_ptr<TlsContext> context_;  // of a client, whose files it looks at meanwhile
};

}  // namespace thaw
