#include <array>
#include <ctime>

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/file_watch.h"
#include "base/limits.h"
#include "base/log.h"
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

Result<OwnedKey> read_key(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path));
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("stat " + path);
  if ((status.st_mode & (S_IRWXO | S_IWGRP)) != 0) {
    return fail(ErrorCode::kPermission, "{} is a key that others have access to: chmod 600 {}",
                path, path);
  }
  const std::string pem = TRY(read_text_file(path, limits::kMaxPemBytes));
  const OwnedBio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  ERR_clear_error();
  OwnedKey key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (key == nullptr) return fail_openssl(path + " is no private key without a passphrase");
  return key;
}

void warn_when_outdated(SSL_CTX* context, const std::string& path) {
  const X509* const own = SSL_CTX_get0_certificate(context);
  if (own != nullptr && X509_cmp_current_time(X509_get0_notAfter(own)) > 0) return;
  log_warning("the certificate {} has run out: peers will refuse it", path);
}

Result<OwnedSslContext> make_context(const TlsFiles& files, TlsContext::Side side) {
  const OwnedKey key = TRY(read_key(files.key));
  ERR_clear_error();
  OwnedSslContext made(SSL_CTX_new(TLS_method()));
  SSL_CTX* const context = made.get();
  if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context, kCipherSuites) != 1 ||
      SSL_CTX_set_session_id_context(context, kSessionScope.data(), kSessionScope.size()) != 1) {
    return fail_openssl("a TLS context");
  }
  if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1) {
    return fail_openssl(files.certificate + " has no certificate");
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1) {
    return fail_openssl(fmt::format("{} is not the key of {}", files.key, files.certificate));
  }
  if (SSL_CTX_load_verify_file(context, files.authority.c_str()) != 1) {
    return fail_openssl(files.authority + " has no certificate of an authority");
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

struct TlsContext::State {
  State(TlsFiles named, Side chosen)
      : files(std::move(named)),
        side(chosen),
        watch({files.certificate, files.key, files.authority}) {}

  const TlsFiles files;
  const Side side;
  FileWatch watch;
  std::mutex mutex;
  std::shared_ptr<Keys> keys;  // guarded by mutex
};

TlsContext::TlsContext(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsContext::~TlsContext() = default;

Result<std::shared_ptr<TlsContext>> TlsContext::load(TlsFiles files, Side side) {
  auto state = std::make_unique<State>(std::move(files), side);
  state->keys = std::make_shared<Keys>();
  state->keys->context = TRY(make_context(state->files, side));
  return std::shared_ptr<TlsContext>(new TlsContext(std::move(state)));
}

Result<TlsSession> TlsContext::begin(const std::string& server_name) {
  if (state_->watch.changed()) {
    auto context = make_context(state_->files, state_->side);
    if (context) {
      log_info("TLS: read {} and its authority again", state_->files.certificate);
      auto keys = std::make_shared<Keys>();
      keys->context = *std::move(context);
      const std::lock_guard lock(state_->mutex);
      state_->keys = std::move(keys);
    } else {
      log_error("TLS: the changed files are no good, what was read before stays in force: {}",
                context.error().message());
    }
  }
  std::shared_ptr<Keys> keys;
  {
    const std::lock_guard lock(state_->mutex);
    keys = state_->keys;
  }
  ERR_clear_error();
  auto session = TRY(TlsSession::State::create(keys->context.get()));
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
