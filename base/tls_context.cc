#include <algorithm>
#include <array>
#include <ctime>
#include <vector>

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/file_watch.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/private_files.h"
#include "base/tls.h"
#include "base/tls_openssl.h"

namespace thaw {

namespace {

/// AES with 128 bits first: it is the fastest where the CPU knows AES.
constexpr const char* kCipherSuites =
    "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384";
constexpr std::array<unsigned char, 4> kSessionScope{'t', 'h', 'a', 'w'};

int remember_session(SSL* ssl, SSL_SESSION* session) {
  // SAFETY: TlsSession::State::create() set it.
  auto& state = *static_cast<TlsSession::State*>(SSL_get_app_data(ssl));
  if (!state.on_session) return 0;  // it stays OpenSSL's
  state.on_session(OwnedSslSession(session));
  return 1;
}

/// Nobody is there to be asked for a passphrase.
int no_passphrase(char*, int, int, void*) { return -1; }

OwnedBio bio_of(const std::string& pem) {
  return OwnedBio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

Result<TlsPem> read_files(const TlsFiles& files) {
  TlsPem pem;
  pem.certificate = TRY(read_trusted_file(files.certificate, limits::kMaxChainBytes));
  pem.key = TRY(read_secret_file(files.key, limits::kMaxPemBytes));
  pem.authority = TRY(read_trusted_file(files.authority, limits::kMaxChainBytes));
  if (!files.revoked.empty()) {
    pem.revoked = TRY(read_trusted_file(files.revoked, limits::kMaxRevokedBytes));
  }
  return pem;
}

Result<OwnedKey> parse_key(const std::string& pem, const std::string& path) {
  const OwnedBio bio = bio_of(pem);
  ERR_clear_error();
  OwnedKey key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (key == nullptr) return fail_openssl(path + " is no private key without a passphrase");
  return key;
}

/// All objects of a kind in the text, in their order; none where one of them is damaged.
template <typename Owned, typename Read>
std::vector<Owned> parse_all(const std::string& pem, Read read) {
  const OwnedBio bio = bio_of(pem);
  std::vector<Owned> all;
  ERR_clear_error();
  while (true) {
    Owned next(read(bio.get(), nullptr, no_passphrase, nullptr));
    if (next == nullptr) break;
    all.push_back(std::move(next));
  }
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) return {};
  if (!all.empty()) ERR_clear_error();
  return all;
}

std::vector<OwnedCertificate> parse_certificates(const std::string& pem) {
  return parse_all<OwnedCertificate>(pem, PEM_read_bio_X509_AUX);
}

/// The own certificate, and those between it and the authority.
bool use_chain(SSL_CTX* context, const std::string& pem) {
  const auto chain = parse_certificates(pem);
  if (chain.empty() || SSL_CTX_use_certificate(context, chain.front().get()) != 1) return false;
  return std::all_of(chain.begin() + 1, chain.end(), [&](const OwnedCertificate& between) {
    return SSL_CTX_add1_chain_cert(context, between.get()) == 1;
  });
}

bool trust(SSL_CTX* context, const std::string& pem) {
  const auto authorities = parse_certificates(pem);
  return !authorities.empty() &&
         std::ranges::all_of(authorities, [&](const OwnedCertificate& authority) {
           return X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get()) == 1;
         });
}

/// The peer's own certificate must not be in the list of its issuer. A peer whose issuer has no
/// list, or one that has run out, is refused.
bool refuse_revoked(SSL_CTX* context, const std::string& pem) {
  const auto lists = parse_all<OwnedRevocations>(pem, PEM_read_bio_X509_CRL);
  X509_STORE* const store = SSL_CTX_get_cert_store(context);
  return !lists.empty() && std::ranges::all_of(lists, [&](const OwnedRevocations& list) {
    return X509_STORE_add_crl(store, list.get()) == 1;
  }) && X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK) == 1;
}

void warn_when_outdated(SSL_CTX* context, const std::string& path) {
  const X509* const own = SSL_CTX_get0_certificate(context);
  if (own != nullptr && X509_cmp_current_time(X509_get0_notAfter(own)) > 0) return;
  log_warning("the certificate {} has run out: peers will refuse it", path);
}

/// `files`: what they are called that the texts were read from.
Result<OwnedSslContext> make_context(const TlsPem& pem, const TlsFiles& files,
                                     TlsContext::Side side) {
  const OwnedKey key = TRY(parse_key(pem.key, files.key));
  ERR_clear_error();
  OwnedSslContext made(SSL_CTX_new(TLS_method()));
  SSL_CTX* const context = made.get();
  if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context, kCipherSuites) != 1 ||
      SSL_CTX_set_session_id_context(context, kSessionScope.data(), kSessionScope.size()) != 1) {
    return fail_openssl("a TLS context");
  }
  if (!use_chain(context, pem.certificate)) {
    return fail_openssl(files.certificate + " has no certificate");
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1) {
    return fail_openssl(fmt::format("{} is not the key of {}", files.key, files.certificate));
  }
  if (!trust(context, pem.authority)) {
    return fail_openssl(files.authority + " has no certificate of an authority");
  }
  if (!files.revoked.empty() && !refuse_revoked(context, pem.revoked)) {
    return fail_openssl(files.revoked + " has no list of revoked certificates");
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_timeout(context, limits::kTlsSessionLife.count());
  SSL_CTX_set_num_tickets(context, 1);
  SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN);  // the peer has the authority's certificate
  const bool client = side == TlsContext::Side::kClient;
  SSL_CTX_set_session_cache_mode(
      context, client ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL : SSL_SESS_CACHE_OFF);
  if (client) SSL_CTX_sess_set_new_cb(context, remember_session);
  warn_when_outdated(context, files.certificate);
  return made;
}

Result<void> expect_server(SSL* ssl, const std::string& name) {
  X509_VERIFY_PARAM* const wanted = SSL_get0_param(ssl);
  if (X509_VERIFY_PARAM_set1_ip_asc(wanted, name.c_str()) == 1) return {};
  X509_VERIFY_PARAM_set_hostflags(
      wanted, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  // An empty name would stand for any.
  if (name.empty() || SSL_set1_host(ssl, name.c_str()) != 1 ||
      SSL_set_tlsext_host_name(ssl, name.c_str()) != 1) {
    return fail(ErrorCode::kTls, "\"{}\" is no name of a server", name);
  }
  return {};
}

}  // namespace

std::unexpected<Error> fail_openssl(const std::string& what) {
  const unsigned long last = ERR_peek_last_error();
  ERR_clear_error();
  const char* const reason = last == 0 ? nullptr : ERR_reason_error_string(last);
  return fail(ErrorCode::kTls, "{}: {}", what, reason == nullptr ? "no reason given" : reason);
}

void TlsContext::Keys::remember(const std::string& server_name, OwnedSslSession session) {
  const std::lock_guard lock(mutex);
  if (sessions.size() >= limits::kMaxTlsSessions && !sessions.contains(server_name)) {
    sessions.clear();
  }
  sessions[server_name] = std::move(session);
}

OwnedSslSession TlsContext::Keys::recall(const std::string& server_name) {
  const std::lock_guard lock(mutex);
  const auto found = sessions.find(server_name);
  if (found == sessions.end()) return nullptr;
  SSL_SESSION_up_ref(found->second.get());
  return OwnedSslSession(found->second.get());
}

std::shared_ptr<TlsContext::Keys> TlsContext::InForce::get() const {
  const std::lock_guard lock(mutex);
  return keys;
}

void TlsContext::InForce::replace(std::shared_ptr<Keys> next) {
  const std::lock_guard lock(mutex);
  const bool trusts_others = keys == nullptr || keys->pem.authority != next->pem.authority ||
                             keys->pem.revoked != next->pem.revoked;
  keys = std::move(next);
  if (trusts_others) trust_generation.fetch_add(1, std::memory_order_release);
}

/// A session that was taken up again has no certificates between the peer's and the authority. Then
/// it ends, and the peer shows them in its next one.
Result<void> TlsContext::InForce::check(const TlsPeer::State& peer) const {
  const std::shared_ptr<Keys> now = get();
  using Verification = std::unique_ptr<X509_STORE_CTX, FreeWith<X509_STORE_CTX_free>>;
  ERR_clear_error();
  const Verification verification(X509_STORE_CTX_new());
  const char* const purpose = peer.side == Side::kClient ? "ssl_client" : "ssl_server";
  if (verification == nullptr ||
      X509_STORE_CTX_init(verification.get(), SSL_CTX_get_cert_store(now->context.get()),
                          peer.certificate.get(), peer.chain.get()) != 1 ||
      X509_STORE_CTX_set_default(verification.get(), purpose) != 1) {
    return fail_openssl("checking a certificate again");
  }
  X509_STORE_CTX_set_flags(verification.get(), X509_V_FLAG_NO_CHECK_TIME);
  const bool good = X509_verify_cert(verification.get()) == 1;
  ERR_clear_error();
  if (good) return {};
  return fail(ErrorCode::kTls, "the peer's certificate is refused: {}",
              X509_verify_cert_error_string(X509_STORE_CTX_get_error(verification.get())));
}

struct TlsContext::State {
  State(TlsFiles named, Side chosen)
      : files(std::move(named)),
        side(chosen),
        watch({files.certificate, files.key, files.authority, files.revoked}) {}

  Result<std::shared_ptr<Keys>> make_keys(TlsPem pem) const {
    auto made = std::make_shared<Keys>();
    made->context = TRY(make_context(pem, files, side));
    made->pem = std::move(pem);
    return made;
  }
  Result<std::shared_ptr<Keys>> read_keys() const { return make_keys(TRY(read_files(files))); }

  const TlsFiles files;
  const Side side;
  FileWatch watch;
  const std::shared_ptr<InForce> in_force = std::make_shared<InForce>();
};

TlsContext::TlsContext(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsContext::~TlsContext() = default;

Result<std::shared_ptr<TlsContext>> TlsContext::load(TlsFiles files, Side side) {
  auto state = std::make_unique<State>(std::move(files), side);
  state->in_force->replace(TRY(state->read_keys()));
  return std::shared_ptr<TlsContext>(new TlsContext(std::move(state)));
}

Result<std::shared_ptr<TlsContext>> TlsContext::load(TlsFiles files, Side side,
                                                     const TlsPem& before) {
  auto state = std::make_unique<State>(std::move(files), side);
  auto keys = state->read_keys();
  if (!keys) {
    log_error("TLS: the files are no good, what was in force before stays in force: {}",
              keys.error().message());
    keys = state->make_keys(before);
  }
  state->in_force->replace(TRY(std::move(keys)));
  return std::shared_ptr<TlsContext>(new TlsContext(std::move(state)));
}

TlsPem TlsContext::pem() const { return state_->in_force->get()->pem; }

std::uint64_t TlsContext::trust_generation() const {
  return state_->in_force->trust_generation.load(std::memory_order_acquire);
}

Result<void> TlsContext::check(const TlsPeer& peer) const {
  return state_->in_force->check(*peer.state_);
}

void TlsContext::look() {
  if (state_->watch.changed()) reload();
}

void TlsContext::reload() {
  static_cast<void>(state_->watch.changed());  // what is read now is no change later
  auto keys = state_->read_keys();
  if (!keys) {
    return log_error("TLS: the files are no good, what was read before stays in force: {}",
                     keys.error().message());
  }
  log_info("TLS: read {} and its authority again", state_->files.certificate);
  state_->in_force->replace(*std::move(keys));
}

Result<TlsSession> TlsContext::begin(const std::string& server_name) {
  look();
  // Before the keys: what comes into force in between is one check too many.
  const std::uint64_t generation = trust_generation();
  const std::shared_ptr<Keys> keys = state_->in_force->get();
  ERR_clear_error();
  auto session = TRY(TlsSession::State::create(keys->context.get()));
  session->in_force = state_->in_force;
  session->trusted_in = generation;
  SSL* const ssl = session->ssl.get();
  if (state_->side == Side::kServer) {
    SSL_set_accept_state(ssl);
    return TlsSession(std::move(session));
  }
  SSL_set_connect_state(ssl);
  TRY(expect_server(ssl, server_name));
  if (const OwnedSslSession known = keys->recall(server_name)) {
    SSL_set_session(ssl, known.get());
  }
  session->on_session = [keys, server_name](OwnedSslSession given) {
    keys->remember(server_name, std::move(given));
  };
  return TlsSession(std::move(session));
}

}  // namespace thaw
