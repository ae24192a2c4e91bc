#include <algorithm>
#include <cstring>

#include <openssl/x509v3.h>

#include "base/check.h"
#include "base/limits.h"
#include "base/tls.h"
#include "base/tls_openssl.h"

namespace thaw {

namespace {

TlsSession::State& state_of(BIO* bio) {
  // SAFETY: create() gave the BIO its state, which owns it.
  return *static_cast<TlsSession::State*>(BIO_get_data(bio));
}

int read_inbox(BIO* bio, char* to, int most) {
  TlsSession::State& state = state_of(bio);
  BIO_clear_retry_flags(bio);
  const std::size_t n =
      std::min(static_cast<std::size_t>(std::max(most, 0)), state.filled - state.start);
  if (n == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  std::memcpy(to, state.inbox.data() + state.start, n);
  state.start += n;
  return static_cast<int>(n);
}

int write_outbox(BIO* bio, const char* from, int size) {
  BIO_clear_retry_flags(bio);
  const ByteSpan bytes = as_bytes({from, static_cast<std::size_t>(std::max(size, 0))});
  Bytes& outbox = state_of(bio).outbox;
  outbox.insert(outbox.end(), bytes.begin(), bytes.end());
  return size;
}

long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

int create_bio(BIO* bio) {
  BIO_set_init(bio, 1);
  return 1;
}

const BIO_METHOD* bio_method() {
  static const std::unique_ptr<BIO_METHOD, FreeWith<BIO_meth_free>> method = [] {
    std::unique_ptr<BIO_METHOD, FreeWith<BIO_meth_free>> made(
        BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "thaw"));
    CHECK(made != nullptr && BIO_meth_set_read(made.get(), read_inbox) == 1 &&
          BIO_meth_set_write(made.get(), write_outbox) == 1 &&
          BIO_meth_set_ctrl(made.get(), control) == 1 &&
          BIO_meth_set_create(made.get(), create_bio) == 1);
    return made;
  }();
  return method.get();
}

/// What went wrong in the session's last call.
std::unexpected<Error> fail_session(SSL* ssl) {
  const unsigned long last = ERR_peek_last_error();
  const int reason = ERR_GET_LIB(last) == ERR_LIB_SSL ? ERR_GET_REASON(last) : 0;
  if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    ERR_clear_error();
    return fail(ErrorCode::kTls, "the peer's certificate is refused: {}",
                X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
  }
  if (reason == SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED) {
    ERR_clear_error();
    return fail(ErrorCode::kTls, "the peer refuses this program's certificate, which is revoked");
  }
  if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST) {
    ERR_clear_error();
    return fail(ErrorCode::kTls, "the peer does not speak TLS");
  }
  return fail_openssl("TLS");
}

/// A session that is taken up again shows no certificate, and the one of the first time may have
/// run out since.
Result<void> check_still_valid(SSL* ssl) {
  X509* const peer = SSL_get0_peer_certificate(ssl);
  if (peer != nullptr && X509_cmp_current_time(X509_get0_notAfter(peer)) > 0) return {};
  return fail(ErrorCode::kTls, "the peer's certificate has run out");
}

TlsPeer::State peer_of(SSL* ssl) {
  TlsPeer::State peer;
  peer.certificate.reset(SSL_get1_peer_certificate(ssl));
  if (STACK_OF(X509)* const chain = SSL_get_peer_cert_chain(ssl)) {
    peer.chain.reset(X509_chain_up_ref(chain));
  }
  peer.side = SSL_is_server(ssl) == 1 ? TlsContext::Side::kClient : TlsContext::Side::kServer;
  return peer;
}

}  // namespace

Result<std::unique_ptr<TlsSession::State>> TlsSession::State::create(SSL_CTX* context) {
  auto state = std::make_unique<State>();
  state->ssl.reset(SSL_new(context));
  OwnedBio bio(BIO_new(bio_method()));
  if (state->ssl == nullptr || bio == nullptr) return fail_openssl("a session");
  BIO_set_data(bio.get(), state.get());
  BIO* const both = bio.release();
  SSL_set_bio(state->ssl.get(), both, both);  // which takes it over
  SSL_set_app_data(state->ssl.get(), state.get());
  state->inbox.resize(limits::kTlsHandshakeInboxBytes);
  return state;
}

Result<void> TlsSession::State::check_peer() {
  const std::uint64_t now = in_force->trust_generation.load(std::memory_order_acquire);
  if (now == trusted_in) return {};
  TRY(in_force->check(peer_of(ssl.get())));
  trusted_in = now;
  return {};
}

TlsSession::TlsSession(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsSession::TlsSession(TlsSession&&) noexcept = default;
TlsSession& TlsSession::operator=(TlsSession&&) noexcept = default;
TlsSession::~TlsSession() = default;

MutableByteSpan TlsSession::inbox() {
  CHECK(starved());
  state_->start = state_->filled = 0;
  return state_->inbox;
}

void TlsSession::received(std::size_t bytes) {
  CHECK(bytes <= state_->inbox.size() - state_->filled);
  state_->filled += bytes;
}

bool TlsSession::starved() const {
  return state_->start == state_->filled && SSL_pending(state_->ssl.get()) == 0;
}

Result<bool> TlsSession::shake_hands() {
  if (state_->shaken) return true;
  SSL* const ssl = state_->ssl.get();
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl);
  if (result != 1) {
    if (SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ) return false;
    return fail_session(ssl);
  }
  if (resumed()) TRY(check_still_valid(ssl));
  state_->inbox.resize(limits::kTlsInboxBytes);  // keeps what the peer has sent meanwhile
  state_->staged.reserve(limits::kTlsRecordBytes);
  state_->shaken = true;
  return true;
}

Result<std::size_t> TlsSession::read(MutableByteSpan to) {
  CHECK(state_->shaken && !to.empty());
  if (state_->closed || starved()) return std::size_t{0};
  TRY(state_->check_peer());
  SSL* const ssl = state_->ssl.get();
  ERR_clear_error();
  std::size_t n = 0;
  const int result = SSL_read_ex(ssl, to.data(), to.size(), &n);
  if (result == 1) return n;
  switch (SSL_get_error(ssl, result)) {
    case SSL_ERROR_WANT_READ:
      return std::size_t{0};
    case SSL_ERROR_ZERO_RETURN:
      state_->closed = true;
      state_->start = state_->filled;  // what comes behind it means nothing
      return std::size_t{0};
    default:
      return fail_session(ssl);
  }
}

Result<void> TlsSession::write(std::span<const ByteSpan> pieces) {
  CHECK(state_->shaken);
  TRY(state_->check_peer());
  ERR_clear_error();
  Bytes& staged = state_->staged;
  staged.clear();
  const auto seal = [this](ByteSpan plain) -> Result<void> {
    std::size_t n = 0;
    if (SSL_write_ex(state_->ssl.get(), plain.data(), plain.size(), &n) == 1) return {};
    return fail_session(state_->ssl.get());
  };
  // Small pieces share records: each record costs 22 bytes and a call of the cipher.
  for (ByteSpan piece : pieces) {
    while (!piece.empty()) {
      const std::size_t n = std::min(piece.size(), limits::kTlsRecordBytes - staged.size());
      if (n == limits::kTlsRecordBytes) {
        TRY(seal(piece.first(n)));
      } else {
        staged.insert(staged.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(n));
      }
      piece = piece.subspan(n);
      if (staged.size() < limits::kTlsRecordBytes) continue;
      TRY(seal(staged));
      staged.clear();
    }
  }
  if (!staged.empty()) TRY(seal(staged));
  return {};
}

bool TlsSession::closed() const { return state_->closed; }

void TlsSession::close() {
  ERR_clear_error();
  if (state_->shaken) static_cast<void>(SSL_shutdown(state_->ssl.get()));
  ERR_clear_error();
}

Bytes& TlsSession::outbox() { return state_->outbox; }

TlsPeer TlsSession::peer() const {
  CHECK(state_->shaken);
  return TlsPeer(std::make_shared<const TlsPeer::State>(peer_of(state_->ssl.get())));
}

std::string TlsPeer::identity() const {
  X509* const peer = state_->certificate.get();
  if (peer == nullptr) return {};
  const OwnedNames names = alternative_names(peer);
  if (names == nullptr) return {};
  for (const int wanted : {GEN_URI, GEN_DNS}) {
    for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
      const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names.get(), i);
      if (name->type != wanted) continue;
      const ASN1_IA5STRING* const text =
          wanted == GEN_URI ? name->d.uniformResourceIdentifier : name->d.dNSName;
      const std::string_view identity = bytes_of(text);
      const bool printable =
          std::ranges::all_of(identity, [](char c) { return c > ' ' && c < 0x7f; });
      return printable ? std::string(identity) : std::string();
    }
  }
  return {};
}

bool TlsSession::resumed() const { return SSL_session_reused(state_->ssl.get()) == 1; }

}  // namespace thaw
