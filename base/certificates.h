#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace thaw {

/// A private authority and certificates of it, in PEM, with keys on the curve P-256. For trying
/// TLS out, and for fleets that have no authority of their own. Failures are kTls.

/// When a certificate is valid, as time since 1970.
struct Validity {
  std::chrono::seconds from;
  std::chrono::seconds until;
};

struct CertificateAndKey {
  std::string certificate;
  std::string key;
};

/// When a certificate ends, as time since 1970.
Result<std::chrono::seconds> end_of_certificate(const std::string& certificate);

/// The DNS names and IP addresses that a certificate is for, as issue_certificate() takes them.
Result<std::vector<std::string>> hosts_of_certificate(const std::string& certificate);

Result<CertificateAndKey> make_authority(const std::string& name, const Validity& validity);

/// For a peer that is known as "thaw://NAME" and, if it serves, under the DNS names or IP addresses
/// `hosts`. kInvalidArgument for a name or host that is none.
Result<CertificateAndKey> issue_certificate(const CertificateAndKey& authority,
                                            const std::string& name,
                                            const std::vector<std::string>& hosts,
                                            const Validity& validity);

/// Of certificates, one after the other, those that end later than that.
Result<std::string> certificates_after(const std::string& certificates, std::chrono::seconds time);

/// The authority's list of revoked certificates (CRL) with `certificates`, one after the other,
/// added to `list`, which is such a list or empty. With none the list stays as it is.
/// kAlreadyExists when all of them are in the list, kInvalidArgument when another authority has
/// issued one, or there is none in the text. With a list that has run out, or that is not valid
/// yet, peers refuse all certificates.
Result<std::string> revoke_certificates(const CertificateAndKey& authority, const std::string& list,
                                        const std::string& certificates, const Validity& validity);

}  // namespace thaw
