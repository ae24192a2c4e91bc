#include "tests/support/authority.h"

#include <algorithm>

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/partial_file.h"

namespace thaw::test {

namespace {

Validity until(std::chrono::seconds from_now) {
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::milliseconds(unix_milliseconds()));
  const std::chrono::seconds end = now + from_now;
  return {std::min(now, end) - std::chrono::hours(1), end};
}

}  // namespace

void replace_file(const std::string& path, std::string_view text) {
  auto file = PartialFile::create(path).value();
  write_at(file.fd(), as_bytes(text), 0).value();
  file.publish().value();
}

Authority::Authority() : own_(make_authority("test", until(std::chrono::hours(1))).value()) {
  replace_file(path("ca.pem"), own_.certificate);
}

TlsFiles Authority::issue(const std::string& name, const std::vector<std::string>& hosts,
                          std::chrono::seconds from_now) const {
  const auto issued = issue_certificate(own_, name, hosts, until(from_now)).value();
  TlsFiles files{path(name + ".pem"), path(name + "-key.pem"), path("ca.pem")};
  replace_file(files.key, issued.key);
  replace_file(files.certificate, issued.certificate);
  return files;
}

void Authority::revoke(const std::optional<std::string>& name,
                       std::chrono::seconds from_now) const {
  const std::string list = path("revoked.crl");
  const auto before = if_found(read_text_file(list, limits::kMaxRevokedBytes)).value();
  std::string certificate;
  if (name) certificate = read_text_file(path(*name + ".pem"), limits::kMaxPemBytes).value();
  const auto revoked = revoke_certificates(own_, before.value_or(""), certificate, until(from_now));
  replace_file(list, revoked.value());
}

TlsFiles Authority::with_list(TlsFiles files) const {
  files.revoked = path("revoked.crl");
  return files;
}

std::shared_ptr<TlsContext> Authority::context(TlsContext::Side side,
                                               const std::string& name) const {
  return TlsContext::load(issue(name), side).value();
}

std::vector<std::string> tls_flags(const TlsFiles& files) {
  std::vector<std::string> flags{"--tls-cert", files.certificate, "--tls-key",
                                 files.key,    "--tls-ca",        files.authority};
  if (!files.revoked.empty()) flags.insert(flags.end(), {"--tls-crl", files.revoked});
  return flags;
}

}  // namespace thaw::test
