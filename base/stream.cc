#include "base/stream.h"

#include <cerrno>

#include "base/limits.h"

namespace thaw {

Result<std::shared_ptr<TlsContext>> load_tls(const TransportFlags& flags, TlsContext::Side side) {
  const TlsFiles& files = flags.tls;
  if (files.certificate.empty() && files.key.empty() && files.authority.empty()) {
    if (!files.revoked.empty()) {
      return fail(ErrorCode::kInvalidArgument, "--tls-crl needs --tls-cert");
    }
    return std::shared_ptr<TlsContext>();
  }
  if (files.certificate.empty() || files.key.empty() || files.authority.empty()) {
    return fail(ErrorCode::kInvalidArgument, "--tls-cert, --tls-key and --tls-ca go together");
  }
  return TlsContext::load(files, side);
}

Result<void> check_transport(const TcpAddress& address, const TransportFlags& flags) {
  const bool sealed = !flags.tls.certificate.empty();
  if (sealed && address.is_unix()) {
    return fail(ErrorCode::kInvalidArgument, "{} is a UNIX socket, and TLS is for TCP",
                address.text());
  }
  if (sealed || flags.insecure || address.is_unix()) return {};
  return fail(ErrorCode::kInvalidArgument,
              "on plain TCP every program that reaches {} may read and change guest memory; use "
              "unix:PATH on one host, or give --tls-cert, --tls-key and --tls-ca, or allow it "
              "with --insecure",
              address.text());
}

namespace {

/// REQUIRES: it has resolved.
std::string host_of(const std::string& host_and_port) {
  return split_host_and_port(host_and_port).value().host;
}

}  // namespace

Result<std::vector<ServerAddress>> resolve_servers(const std::string& host_and_port,
                                                   const TransportFlags& flags,
                                                   const std::shared_ptr<TlsContext>& tls) {
  std::vector<ServerAddress> servers;
  for (const TcpAddress& address : TRY(resolve_tcp_all(host_and_port))) {
    TRY(check_transport(address, flags));
    servers.emplace_back(address, address.is_unix() ? "" : host_of(host_and_port), tls);
  }
  return servers;
}

Result<ServerAddress> resolve_server(const std::string& host_and_port,
                                     const TransportFlags& flags) {
  const auto tls = TRY(load_tls(flags, TlsContext::Side::kClient));
  std::vector<ServerAddress> servers = TRY(resolve_servers(host_and_port, flags, tls));
  return std::move(servers.front());
}

namespace {

/// Whether a UNIX socket is not there, or of no process any more.
bool is_left_alone(const Error& error) {
  return error.error_number() == ENOENT || error.error_number() == ECONNREFUSED;
}

}  // namespace

Result<Stream> Stream::connect(const ServerAddress& server, Deadline deadline) {
  auto socket = connect_tcp(server.tcp, deadline);
  if (!socket && server.tcp.is_unix() && is_left_alone(socket.error())) {
    return fail(ErrorCode::kUnavailable,
                "no page server listens at {}; start thaw-pageserver or give --server",
                server.text());
  }
  Stream stream(TRY(std::move(socket)));
  if (server.tls == nullptr) return stream;
  stream.context_ = server.tls;
  stream.tls_ = TRY(server.tls->begin(server.host));
  TRY(stream.shake_hands(deadline));
  return stream;
}

Result<void> Stream::shake_hands(Deadline deadline) {
  while (true) {
    const auto done = tls_->shake_hands();
    const auto sent = send_outbox(deadline);  // after a failure it says why
    if (!done) return std::unexpected(done.error());
    TRY(sent);
    if (*done) return {};
    const std::size_t n = TRY(thaw::receive_some(socket_, tls_->inbox(), deadline));
    if (n == 0) return fail(ErrorCode::kUnavailable, "the peer closed the connection");
    tls_->received(n);
  }
}

Result<void> Stream::send_outbox(Deadline deadline) {
  if (tls_->outbox().empty()) return {};
  const auto sent = send_all(socket_, tls_->outbox(), deadline);
  tls_->outbox().clear();
  return sent;
}

Result<void> Stream::send(std::span<const ByteSpan> pieces, Deadline deadline) {
  if (!tls_) return send_all(socket_, pieces, deadline);
  TRY(tls_->write(pieces));
  return send_outbox(deadline);
}

template <typename Receive>
Result<std::size_t> Stream::receive_sealed(MutableByteSpan to, const Receive& receive) {
  while (true) {
    if (context_ != nullptr) context_->look();
    const auto plain = tls_->read(to);
    // It may have to answer the peer, or to say why it fails.
    const auto sent = send_outbox(Deadline::after(limits::kHandshakeTimeout));
    if (!plain) return std::unexpected(plain.error());
    TRY(sent);
    if (*plain > 0 || tls_->closed()) return *plain;
    const std::size_t n = TRY(receive(tls_->inbox()));
    if (n == 0) return std::size_t{0};
    tls_->received(n);
  }
}

Result<std::size_t> Stream::receive_some(MutableByteSpan to, Deadline deadline) {
  const auto receive = [&](MutableByteSpan sealed) {
    return thaw::receive_some(socket_, sealed, deadline);
  };
  return tls_ ? receive_sealed(to, receive) : receive(to);
}

Result<std::size_t> Stream::receive_resting(MutableByteSpan to) {
  const auto receive = [&](MutableByteSpan sealed) {
    return thaw::receive_resting(socket_, sealed);
  };
  return tls_ ? receive_sealed(to, receive) : receive(to);
}

Result<void> Stream::receive_all(MutableByteSpan to, Deadline deadline) {
  if (!tls_) return thaw::receive_all(socket_, to, deadline);
  std::size_t filled = 0;
  while (filled < to.size()) {
    const std::size_t n = TRY(receive_some(to.subspan(filled), deadline));
    if (n == 0) {
      return fail(filled == 0 ? ErrorCode::kUnavailable : ErrorCode::kTruncated,
                  "the peer closed the connection");
    }
    filled += n;
  }
  return {};
}

}  // namespace thaw
