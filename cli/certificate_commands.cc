#include <algorithm>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/certificates.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/output.h"
#include "base/output_file.h"
#include "base/printable.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/limits.h"
#include "cli/output.h"

namespace thaw::command {

namespace {

/// Where the parts of a certificate's pair stand; "ca" is the authority's.
struct Files {
  Files(const std::string& directory, const std::string& name)
      : certificate(directory + "/" + name + ".pem"), key(directory + "/" + name + "-key.pem") {}

  std::string certificate;
  std::string key;
};

/// From a little ago, for hosts whose clocks differ.
Validity validity_of(unsigned days) {
  const std::chrono::milliseconds now(unix_milliseconds());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now);
  return {seconds - std::chrono::minutes(5), seconds + std::chrono::hours(24) * days};
}

std::string time_text(std::chrono::seconds time) {
  return human_time(static_cast<std::uint64_t>(std::chrono::milliseconds(time).count()));
}

/// A certificate that outlives its authority would end with it, at a time that it does not say.
/// `days` as the user wants it; 0: as usual, or as long as the authority.
Result<Validity> validity_within(const std::string& authority, unsigned days) {
  const std::chrono::seconds end = TRY(end_of_certificate(authority));
  Validity validity = validity_of(days == 0 ? limits::kCertificateDays : days);
  if (end <= std::chrono::milliseconds(unix_milliseconds())) {
    return fail(ErrorCode::kTls, "the authority ended on {} UTC", time_text(end));
  }
  if (validity.until > end && days != 0) {
    return fail(ErrorCode::kInvalidArgument, "--days {}: the authority itself ends on {} UTC", days,
                time_text(end));
  }
  validity.until = std::min(validity.until, end);
  return validity;
}

/// New files are for their owner alone.
Result<void> write_pair(const Files& files, const CertificateAndKey& pair) {
  OutputFile key = TRY(OutputFile::open(files.key));
  OutputFile certificate = TRY(OutputFile::open(files.certificate));
  TRY(key.write(as_bytes(pair.key), 0));
  TRY(certificate.write(as_bytes(pair.certificate), 0));
  return OutputFile::publish_together(key, &certificate);
}

void print_pair(const Files& files, const Validity& validity, const std::string& next,
                OutputForm form) {
  if (form == OutputForm::kJson) {
    return print_json({{"certificate", files.certificate},
                       {"key", files.key},
                       {"valid_until_unix_s", validity.until.count()}});
  }
  print_table({{"certificate", files.certificate},
               {"key", files.key},
               {"valid until", time_text(validity.until) + " UTC"}});
  print_out("{}\n", next);
}

/// As it stands before a port.
std::string bracketed(const std::string& host) {
  return host.contains(':') ? "[" + host + "]" : host;
}

std::string flags_of(const std::string& directory, const Files& files) {
  return printable(fmt::format("--tls-cert {} --tls-key {} --tls-ca {}", files.certificate,
                               files.key, Files(directory, "ca").certificate));
}

}  // namespace

Result<void> make_certificate_authority(const Options& options) {
  const std::string& directory = options.directory;
  const Files files(directory, "ca");
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return fail_errno("create " + directory, error.value());
  if (std::filesystem::exists(files.key) || std::filesystem::exists(files.certificate)) {
    return fail(ErrorCode::kAlreadyExists, "there is an authority in {}", directory);
  }
  const Validity validity = validity_of(options.days == 0 ? limits::kAuthorityDays : options.days);
  TRY(write_pair(files, TRY(make_authority("Thaw authority", validity))));
  print_pair(files, validity,
             fmt::format("The key stays here; whoever has it can be any peer. Next, for a page "
                         "server:\n  thaw certs issue {} pageserver --host ADDRESS",
                         printable(directory)),
             options.form());
  return {};
}

Result<void> issue_certificate(const Options& options) {
  const std::string& directory = options.directory;
  if (options.name == "ca" || options.name.ends_with("-key")) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" would stand where other files do",
                options.name);
  }
  const Files authority(directory, "ca");
  CertificateAndKey issuer;
  issuer.certificate = TRY(read_text_file(authority.certificate, limits::kMaxPemBytes));
  issuer.key = TRY(read_text_file(authority.key, limits::kMaxPemBytes));
  const Validity validity = TRY(validity_within(issuer.certificate, options.days));
  const Files files(directory, options.name);
  TRY(write_pair(files,
                 TRY(thaw::issue_certificate(issuer, options.name, options.hosts, validity))));
  const std::string flags = flags_of(directory, files);
  const std::string next =
      options.hosts.empty()
          ? fmt::format(
                "Next, on a host that has these files and {}:\n  thaw --server HOST:PORT "
                "{} ls",
                printable(authority.certificate), flags)
          : fmt::format(
                "Next, on that host, with these files and {}:\n  thaw-pageserver --store "
                "DIRECTORY --listen {}:7433 {}",
                printable(authority.certificate), bracketed(options.hosts.front()), flags);
  print_pair(files, validity, next, options.form());
  return {};
}

}  // namespace thaw::command
