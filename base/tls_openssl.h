#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "base/error.h"
#include "base/tls.h"

/// What the files around TLS share of OpenSSL. No other file includes this one.
namespace thaw {

/// Owns what OpenSSL allocates.
template <auto Free>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using OwnedSsl = std::unique_ptr<SSL, FreeWith<SSL_free>>;
using OwnedSslContext = std::unique_ptr<SSL_CTX, FreeWith<SSL_CTX_free>>;
using OwnedSslSession = std::unique_ptr<SSL_SESSION, FreeWith<SSL_SESSION_free>>;
using OwnedCertificate = std::unique_ptr<X509, FreeWith<X509_free>>;
using OwnedRevocations = std::unique_ptr<X509_CRL, FreeWith<X509_CRL_free>>;
/// Frees a list of certificates and gives up its hold on each.
inline void free_chain(STACK_OF(X509) * chain) { sk_X509_pop_free(chain, X509_free); }
using OwnedChain = std::unique_ptr<STACK_OF(X509), FreeWith<free_chain>>;
using OwnedKey = std::unique_ptr<EVP_PKEY, FreeWith<EVP_PKEY_free>>;
using OwnedBio = std::unique_ptr<BIO, FreeWith<BIO_free_all>>;

using OwnedNames = std::unique_ptr<GENERAL_NAMES, FreeWith<GENERAL_NAMES_free>>;

/// The alternative names of a certificate; nullptr: it has none.
inline OwnedNames alternative_names(X509* certificate) {
  // SAFETY: this extension decodes to GENERAL_NAMES.
  return OwnedNames(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
}
inline std::string_view bytes_of(const ASN1_STRING* text) {
  // SAFETY: ASN.1 strings are bytes, and as many as it says.
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
          static_cast<std::size_t>(ASN1_STRING_length(text))};
}

/// kTls with what OpenSSL has noted last of this thread's failures, which are forgotten.
std::unexpected<Error> fail_openssl(const std::string& what);

struct TlsPeer::State {
  OwnedCertificate certificate;
  OwnedChain chain;  // nullptr: none came, as in a session that was taken up again
  TlsContext::Side side = TlsContext::Side::kClient;  // the peer's
};

/// What one reading of the files gave. Its sessions are found by the server's name.
struct TlsContext::Keys {
  OwnedSslContext context;
  TlsPem pem;  // what it was made of
  std::mutex mutex;
  std::map<std::string, OwnedSslSession> sessions;  // guarded by mutex

  void remember(const std::string& server_name, OwnedSslSession session);
  /// nullptr when there is none.
  OwnedSslSession recall(const std::string& server_name);
};

/// What its sessions look at, too, as long as they live. Locks itself.
struct TlsContext::InForce {
  mutable std::mutex mutex;
  std::shared_ptr<Keys> keys;                     // guarded by mutex
  std::atomic<std::uint64_t> trust_generation{};  // stored under mutex, behind the keys

  std::shared_ptr<Keys> get() const;
  void replace(std::shared_ptr<Keys> next);
  Result<void> check(const TlsPeer::State& peer) const;
};

/// OpenSSL sees its bytes through a BIO of its own, which reads inbox and writes outbox.
struct TlsSession::State {
  static Result<std::unique_ptr<State>> create(SSL_CTX* context);
  /// As TlsContext::check(), once for each change. REQUIRES: shaken.
  Result<void> check_peer();
  /// OpenSSL would not take up a session again whose connection just broke.
  ~State() {
    if (ssl != nullptr) SSL_set_shutdown(ssl.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  }

  OwnedSsl ssl;
  Bytes inbox;
  std::size_t start = 0;  // in it: what OpenSSL has not taken yet
  std::size_t filled = 0;
  Bytes outbox;
  Bytes staged;  // plain bytes on their way into one record
  bool shaken = false;
  bool closed = false;
  std::shared_ptr<const TlsContext::InForce> in_force;
  std::uint64_t trusted_in = 0;  // the generation in which the peer was trusted
  /// Called with the sessions that a server gives.
  std::function<void(OwnedSslSession)> on_session;
};

}  // namespace thaw
