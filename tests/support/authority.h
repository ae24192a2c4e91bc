#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/certificates.h"
#include "base/tls.h"
#include "tests/support/scratch_directory.h"

namespace thaw::test {

/// A private authority in a directory of its own, and certificates of it. One thread.
class Authority {
 public:
  Authority();

  /// Writes a certificate and key for `name`, over those that it had, valid for these hosts and
  /// until so long from now, which may be in the past.
  TlsFiles issue(const std::string& name, const std::vector<std::string>& hosts = {"127.0.0.1"},
                 std::chrono::seconds until = std::chrono::hours(1)) const;
  /// Writes the list of revoked certificates with one more, that `name` has now; with none it stays
  /// as it was, or is empty.
  void revoke(const std::optional<std::string>& name,
              std::chrono::seconds until = std::chrono::hours(1)) const;
  /// The files that it was issued, with the list.
  TlsFiles with_list(TlsFiles files) const;
  /// A context of such files.
  std::shared_ptr<TlsContext> context(TlsContext::Side side, const std::string& name) const;
  std::string path(const std::string& name) const { return scratch_.path(name); }

 private:
  ScratchDirectory scratch_;
  CertificateAndKey own_;
};

/// Replaces a file at once, with mode 0600.
void replace_file(const std::string& path, std::string_view text);

/// The flags that name the files.
std::vector<std::string> tls_flags(const TlsFiles& files);

}  // namespace thaw::test
