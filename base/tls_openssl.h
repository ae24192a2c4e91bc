#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

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
using OwnedKey = std::unique_ptr<EVP_PKEY, FreeWith<EVP_PKEY_free>>;
using OwnedBio = std::unique_ptr<BIO, FreeWith<BIO_free_all>>;

/// kTls with what OpenSSL has noted last of this thread's failures, which are forgotten.
std::unexpected<Error> fail_openssl(const std::string& what);

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

/// OpenSSL sees its bytes through a BIO of its own, which reads inbox and writes outbox.
struct TlsSession::State {
  static Result<std::unique_ptr<State>> create(SSL_CTX* context);
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
  /// Called with the sessions that a server gives.
  std::function<void(OwnedSslSession)> on_session;
};

}  // namespace thaw
