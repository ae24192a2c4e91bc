#include "base/certificates.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>

#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "base/tls_openssl.h"

namespace thaw {

namespace {

/// What stands in a certificate beside key and signature.
struct Content {
  std::string common_name;
  Validity validity;
  std::vector<std::pair<int, std::string>> extensions;  // by NID, as openssl.cnf writes them
};

std::string take_text(const OwnedBio& bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(std::max(size, 0L))};
}

OwnedBio reader(const std::string& text) {
  return OwnedBio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

bool is_word(const std::string& text, std::string_view others) {
  return !text.empty() && text.size() <= 253 && std::ranges::all_of(text, [&](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || others.contains(c);
  });
}

/// Serial numbers are not foretold and do not repeat.
bool set_serial(X509* certificate) {
  std::array<unsigned char, 16> random;
  if (RAND_bytes(random.data(), random.size()) != 1) return false;
  random.front() = (random.front() & 0x3f) | 0x40;  // positive, and of full length
  const std::unique_ptr<BIGNUM, FreeWith<BN_free>> number(
      BN_bin2bn(random.data(), random.size(), nullptr));
  return number != nullptr &&
         BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool set_names(X509* certificate, X509* issuer, const std::string& common_name) {
  X509_NAME* const subject = X509_get_subject_name(certificate);
  // SAFETY: OpenSSL takes text as unsigned bytes.
  const auto* const text = reinterpret_cast<const unsigned char*>(common_name.c_str());
  return X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, text, -1, -1, 0) == 1 &&
         X509_set_issuer_name(certificate, X509_get_subject_name(issuer)) == 1;
}

bool add_extensions(X509* certificate, X509* issuer, const Content& content) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  return std::ranges::all_of(content.extensions, [&](const auto& extension) {
    const std::unique_ptr<X509_EXTENSION, FreeWith<X509_EXTENSION_free>> made(
        X509V3_EXT_nconf_nid(nullptr, &context, extension.first, extension.second.c_str()));
    return made != nullptr && X509_add_ext(certificate, made.get(), -1) == 1;
  });
}

/// Signed by the issuer, or by itself when there is none.
Result<CertificateAndKey> make(const Content& content, X509* issuer, EVP_PKEY* issuer_key) {
  ERR_clear_error();
  const OwnedKey key(EVP_EC_gen("P-256"));
  const OwnedCertificate made(X509_new());
  X509* const certificate = made.get();
  if (issuer == nullptr) {
    issuer = certificate;
    issuer_key = key.get();
  }
  if (key == nullptr || certificate == nullptr ||
      X509_set_version(certificate, X509_VERSION_3) != 1 || !set_serial(certificate) ||
      ASN1_TIME_set(X509_getm_notBefore(certificate), content.validity.from.count()) == nullptr ||
      ASN1_TIME_set(X509_getm_notAfter(certificate), content.validity.until.count()) == nullptr ||
      X509_set_pubkey(certificate, key.get()) != 1 ||
      !set_names(certificate, issuer, content.common_name) ||
      !add_extensions(certificate, issuer, content) ||
      X509_sign(certificate, issuer_key, EVP_sha256()) == 0) {
    return fail_openssl("a certificate");
  }
  const OwnedBio certificate_text(BIO_new(BIO_s_mem()));
  const OwnedBio key_text(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(certificate_text.get(), certificate) != 1 ||
      PEM_write_bio_PrivateKey(key_text.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) !=
          1) {
    return fail_openssl("writing a certificate");
  }
  return CertificateAndKey{take_text(certificate_text), take_text(key_text)};
}

/// "IP:..." or "DNS:..." as an alternative name.
Result<std::string> alternative_name(const std::string& host) {
  const std::unique_ptr<ASN1_OCTET_STRING, FreeWith<ASN1_OCTET_STRING_free>> address(
      a2i_IPADDRESS(host.c_str()));
  ERR_clear_error();
  if (address != nullptr) return "IP:" + host;
  if (is_word(host, "-._*")) return "DNS:" + host;
  return fail(ErrorCode::kInvalidArgument, "\"{}\" is neither a DNS name nor an IP address", host);
}

}  // namespace

Result<std::chrono::seconds> end_of_certificate(const std::string& certificate) {
  ERR_clear_error();
  const OwnedCertificate read(
      PEM_read_bio_X509(reader(certificate).get(), nullptr, nullptr, nullptr));
  std::tm end{};
  if (read == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(read.get()), &end) != 1) {
    return fail_openssl("reading a certificate");
  }
  return std::chrono::seconds(::timegm(&end));
}

Result<CertificateAndKey> make_authority(const std::string& name, const Validity& validity) {
  return make({.common_name = name,
               .validity = validity,
               .extensions = {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                              {NID_key_usage, "critical,keyCertSign,cRLSign"},
                              {NID_subject_key_identifier, "hash"}}},
              nullptr, nullptr);
}

Result<CertificateAndKey> issue_certificate(const CertificateAndKey& authority,
                                            const std::string& name,
                                            const std::vector<std::string>& hosts,
                                            const Validity& validity) {
  if (name.size() > 63 || !is_word(name, "-._")) {
    return fail(ErrorCode::kInvalidArgument,
                "\"{}\" is no name of at most 63 letters, digits, dots, dashes and underscores",
                name);
  }
  std::string names = "URI:thaw://" + name;
  for (const std::string& host : hosts) names += "," + TRY(alternative_name(host));
  ERR_clear_error();
  const OwnedCertificate issuer(
      PEM_read_bio_X509(reader(authority.certificate).get(), nullptr, nullptr, nullptr));
  const OwnedKey issuer_key(
      PEM_read_bio_PrivateKey(reader(authority.key).get(), nullptr, nullptr, nullptr));
  if (issuer == nullptr || issuer_key == nullptr ||
      X509_check_private_key(issuer.get(), issuer_key.get()) != 1) {
    return fail_openssl("the authority's certificate and key");
  }
  return make({.common_name = name,
               .validity = validity,
               .extensions = {{NID_basic_constraints, "critical,CA:FALSE"},
                              {NID_key_usage, "critical,digitalSignature"},
                              {NID_ext_key_usage, "serverAuth,clientAuth"},
                              {NID_subject_alt_name, names},
                              {NID_subject_key_identifier, "hash"},
                              {NID_authority_key_identifier, "keyid"}}},
              issuer.get(), issuer_key.get());
}

}  // namespace thaw
