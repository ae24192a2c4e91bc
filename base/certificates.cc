#include "base/certificates.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>
#include <optional>

#include <arpa/inet.h>
#include <netinet/in.h>
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

using Asn1Time = std::unique_ptr<ASN1_TIME, FreeWith<ASN1_TIME_free>>;

struct Issuer {
  OwnedCertificate certificate;
  OwnedKey key;
};

/// "IP:..." or "DNS:..." as an alternative name.
Result<std::string> alternative_name(const std::string& host) {
  const std::unique_ptr<ASN1_OCTET_STRING, FreeWith<ASN1_OCTET_STRING_free>> address(
      a2i_IPADDRESS(host.c_str()));
  ERR_clear_error();
  if (address != nullptr) return "IP:" + host;
  if (is_word(host, "-._*")) return "DNS:" + host;
  return fail(ErrorCode::kInvalidArgument, "\"{}\" is neither a DNS name nor an IP address", host);
}

Result<OwnedCertificate> read_certificate(const std::string& text) {
  ERR_clear_error();
  OwnedCertificate read(PEM_read_bio_X509(reader(text).get(), nullptr, nullptr, nullptr));
  if (read == nullptr) return fail_openssl("reading a certificate");
  return read;
}

/// One at least.
Result<std::vector<OwnedCertificate>> read_certificates(const std::string& text) {
  std::vector<OwnedCertificate> all;
  const OwnedBio left = reader(text);
  ERR_clear_error();
  while (OwnedCertificate read{PEM_read_bio_X509(left.get(), nullptr, nullptr, nullptr)}) {
    all.push_back(std::move(read));
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (all.empty() || !at_end) return fail_openssl("reading certificates");
  ERR_clear_error();
  return all;
}

Result<std::chrono::seconds> end_of(const X509* certificate) {
  std::tm end{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1) {
    return fail_openssl("reading a certificate");
  }
  return std::chrono::seconds(::timegm(&end));
}

/// Nothing for a name of another kind.
std::optional<std::string> host_of(const GENERAL_NAME& name) {
  if (name.type == GEN_DNS) return std::string(bytes_of(name.d.dNSName));
  if (name.type != GEN_IPADD) return std::nullopt;
  const std::string_view address = bytes_of(name.d.iPAddress);
  std::array<char, INET6_ADDRSTRLEN> text{};
  const int family = address.size() == sizeof(in_addr) ? AF_INET : AF_INET6;
  if (family == AF_INET6 && address.size() != sizeof(in6_addr)) return std::nullopt;
  ::inet_ntop(family, address.data(), text.data(), text.size());
  return text.data();
}

}  // namespace

Result<std::chrono::seconds> end_of_certificate(const std::string& certificate) {
  return end_of(TRY(read_certificate(certificate)).get());
}

Result<std::string> certificates_after(const std::string& certificates, std::chrono::seconds time) {
  const OwnedBio kept(BIO_new(BIO_s_mem()));
  for (const OwnedCertificate& certificate : TRY(read_certificates(certificates))) {
    if (TRY(end_of(certificate.get())) <= time) continue;
    if (PEM_write_bio_X509(kept.get(), certificate.get()) != 1) {
      return fail_openssl("writing a certificate");
    }
  }
  return take_text(kept);
}

Result<std::vector<std::string>> hosts_of_certificate(const std::string& certificate) {
  const OwnedCertificate read = TRY(read_certificate(certificate));
  const OwnedNames names = alternative_names(read.get());
  std::vector<std::string> hosts;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    if (auto host = host_of(*sk_GENERAL_NAME_value(names.get(), i))) {
      hosts.push_back(*std::move(host));
    }
  }
  return hosts;
}

Result<CertificateAndKey> make_authority(const std::string& name, const Validity& validity) {
  return make({.common_name = name,
               .validity = validity,
               .extensions = {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                              {NID_key_usage, "critical,keyCertSign,cRLSign"},
                              {NID_subject_key_identifier, "hash"}}},
              nullptr, nullptr);
}

namespace {

Result<Issuer> read_issuer(const CertificateAndKey& authority) {
  ERR_clear_error();
  Issuer issuer{
      OwnedCertificate(
          PEM_read_bio_X509(reader(authority.certificate).get(), nullptr, nullptr, nullptr)),
      OwnedKey(PEM_read_bio_PrivateKey(reader(authority.key).get(), nullptr, nullptr, nullptr))};
  if (issuer.certificate == nullptr || issuer.key == nullptr ||
      X509_check_private_key(issuer.certificate.get(), issuer.key.get()) != 1) {
    return fail_openssl("the authority's certificate and key");
  }
  return issuer;
}

}  // namespace

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
  const Issuer issuer = TRY(read_issuer(authority));
  return make({.common_name = name,
               .validity = validity,
               .extensions = {{NID_basic_constraints, "critical,CA:FALSE"},
                              {NID_key_usage, "critical,digitalSignature"},
                              {NID_ext_key_usage, "serverAuth,clientAuth"},
                              {NID_subject_alt_name, names},
                              {NID_subject_key_identifier, "hash"},
                              {NID_authority_key_identifier, "keyid"}}},
              issuer.certificate.get(), issuer.key.get());
}

namespace {

/// A new entry of the list, which then belongs to it.
bool add_entry(X509_CRL* list, X509* revoked) {
  std::unique_ptr<X509_REVOKED, FreeWith<X509_REVOKED_free>> entry(X509_REVOKED_new());
  const Asn1Time now(ASN1_TIME_set(nullptr, std::time(nullptr)));
  if (entry == nullptr || now == nullptr ||
      X509_REVOKED_set_serialNumber(entry.get(), X509_get_serialNumber(revoked)) != 1 ||
      X509_REVOKED_set_revocationDate(entry.get(), now.get()) != 1 ||
      X509_CRL_add0_revoked(list, entry.get()) != 1) {
    return false;
  }
  static_cast<void>(entry.release());
  return true;
}

bool sign_list(X509_CRL* list, const Issuer& issuer, const Validity& validity) {
  const Asn1Time begin(ASN1_TIME_set(nullptr, validity.from.count()));
  const Asn1Time end(ASN1_TIME_set(nullptr, validity.until.count()));
  return begin != nullptr && end != nullptr &&
         X509_CRL_set_version(list, X509_CRL_VERSION_2) == 1 &&
         X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer.certificate.get())) == 1 &&
         X509_CRL_set1_lastUpdate(list, begin.get()) == 1 &&
         X509_CRL_set1_nextUpdate(list, end.get()) == 1 && X509_CRL_sort(list) == 1 &&
         X509_CRL_sign(list, issuer.key.get(), EVP_sha256()) != 0;
}

Result<void> revoke(X509_CRL* list, const std::string& certificates, X509* authority) {
  bool any_new = false;
  for (const OwnedCertificate& revoked : TRY(read_certificates(certificates))) {
    if (X509_verify(revoked.get(), X509_get0_pubkey(authority)) != 1) {
      return fail(ErrorCode::kInvalidArgument, "another authority has issued the certificate");
    }
    X509_REVOKED* found = nullptr;
    if (X509_CRL_get0_by_serial(list, &found, X509_get_serialNumber(revoked.get())) == 1) continue;
    if (!add_entry(list, revoked.get())) return fail_openssl("adding to the revoked certificates");
    any_new = true;
  }
  if (!any_new) return fail(ErrorCode::kAlreadyExists, "the certificate is revoked");
  return {};
}

}  // namespace

Result<std::string> revoke_certificates(const CertificateAndKey& authority, const std::string& list,
                                        const std::string& certificates, const Validity& validity) {
  const Issuer issuer = TRY(read_issuer(authority));
  ERR_clear_error();
  const OwnedRevocations revocations(
      list.empty() ? X509_CRL_new()
                   : PEM_read_bio_X509_CRL(reader(list).get(), nullptr, nullptr, nullptr));
  if (revocations == nullptr) return fail_openssl("reading the revoked certificates");
  if (!certificates.empty()) {
    TRY(revoke(revocations.get(), certificates, issuer.certificate.get()));
  }
  const OwnedBio text(BIO_new(BIO_s_mem()));
  if (!sign_list(revocations.get(), issuer, validity) ||
      PEM_write_bio_X509_CRL(text.get(), revocations.get()) != 1) {
    return fail_openssl("writing the revoked certificates");
  }
  return take_text(text);
}

}  // namespace thaw
