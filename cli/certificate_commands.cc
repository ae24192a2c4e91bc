#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/certificates.h"
#include "base/clock.h"
#include "base/input_file.h"
#include "base/limits.h"
#include "base/output.h"
#include "base/output_file.h"
#include "base/printable.h"
#include "base/private_files.h"
#include "cli/commands.h"
#include "cli/json.h"
#include "cli/limits.h"
#include "cli/output.h"
#include "cli/sys/authority_lock.h"

namespace thaw::command {

namespace {

/// Where the parts of a certificate's pair stand. What is copied to hosts is in the directory, the
/// authority's key is not.
struct Files {
  Files(const std::string& directory, const std::string& name)
      : certificate(directory + "/" + name + ".pem"), key(directory + "/" + name + "-key.pem") {}

  std::string certificate;
  std::string key;
};

std::string private_directory(const std::string& directory) { return directory + "/private"; }

Files files_of_authority(const std::string& directory) {
  Files files(directory, "ca");
  files.key = private_directory(directory) + "/ca-key.pem";
  return files;
}
/// All certificates issued under the name that have not ended, the one that is in use included.
std::string issued_under(const std::string& directory, const std::string& name) {
  return private_directory(directory) + "/" + name + "-issued.pem";
}
std::string list_of_revoked(const std::string& directory) { return directory + "/revoked.crl"; }

Result<CertificateAndKey> read_authority(const std::string& directory) {
  const Files files = files_of_authority(directory);
  const std::string beside = Files(directory, "ca").key;
  if (!std::filesystem::exists(files.key) && std::filesystem::exists(beside)) {
    return fail(ErrorCode::kNotFound,
                "{} is missing, and {} lies among what is copied to hosts: mkdir -m 700 {}/private "
                "&& mv {} {}",
                files.key, beside, directory, beside, files.key);
  }
  CertificateAndKey authority;
  authority.certificate = TRY(read_trusted_file(files.certificate, limits::kMaxPemBytes));
  authority.key = TRY(read_trusted_file(files.key, limits::kMaxPemBytes));
  return authority;
}

std::chrono::seconds unix_now() {
  const std::chrono::milliseconds now(unix_milliseconds());
  return std::chrono::duration_cast<std::chrono::seconds>(now);
}

/// From a little ago, for hosts whose clocks differ.
Validity validity_of(unsigned days) {
  const std::chrono::seconds now = unix_now();
  return {now - std::chrono::minutes(5), now + std::chrono::hours(24) * days};
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

/// What revoking a name revokes, so that the key of a certificate that was replaced is worth
/// nothing, either. One that was issued before such files were written is in `current` alone.
Result<std::string> issued_certificates(const std::string& directory, const std::string& name) {
  const std::string path = issued_under(directory, name);
  const std::string current = Files(directory, name).certificate;
  const auto issued = TRY(if_found(read_trusted_file(path, limits::kMaxRevokedBytes)));
  if (issued) return *issued;
  return TRY(if_found(read_trusted_file(current, limits::kMaxPemBytes))).value_or("");
}

/// To be called before it has a name of its own: one that is out has to be known.
Result<void> note_issued(const std::string& directory, const std::string& name,
                         const std::string& certificate) {
  const std::string all = TRY(issued_certificates(directory, name)) + certificate;
  const std::string valid = TRY(certificates_after(all, unix_now()));
  return write_output(issued_under(directory, name), as_bytes(valid));
}

/// New files are for their owner alone.
Result<void> write_pair(const Files& files, const CertificateAndKey& pair) {
  OutputFile key = TRY(OutputFile::open(files.key));
  OutputFile certificate = TRY(OutputFile::open(files.certificate));
  TRY(key.write(as_bytes(pair.key), 0));
  TRY(certificate.write(as_bytes(pair.certificate), 0));
  return OutputFile::publish_together(key, &certificate);
}

void print_pair(const Files& files, const Validity& validity, const std::vector<std::string>& hosts,
                const std::string& next, OutputForm form) {
  if (form == OutputForm::kJson) {
    return print_json({{"certificate", files.certificate},
                       {"key", files.key},
                       {"hosts", hosts},
                       {"valid_until_unix_s", validity.until.count()}});
  }
  std::vector<std::vector<std::string>> rows{{"certificate", files.certificate},
                                             {"key", files.key},
                                             {"valid until", time_text(validity.until) + " UTC"}};
  if (!hosts.empty()) rows.push_back({"hosts", fmt::format("{}", fmt::join(hosts, ", "))});
  print_table(rows);
  print_out("{}\n", next);
}

/// A certificate that is replaced goes on being for the same hosts, unless others are named.
Result<std::vector<std::string>> hosts_for(const Options& options, const Files& files) {
  if (!options.hosts.empty()) return options.hosts;
  const auto before = TRY(if_found(read_trusted_file(files.certificate, limits::kMaxPemBytes)));
  return before ? hosts_of_certificate(*before) : std::vector<std::string>();
}

/// As it stands before a port.
std::string bracketed(const std::string& host) {
  return host.contains(':') ? "[" + host + "]" : host;
}

std::string flags_of(const std::string& directory, const Files& files) {
  return printable(fmt::format("--tls-cert {} --tls-key {} --tls-ca {} --tls-crl {}",
                               files.certificate, files.key, Files(directory, "ca").certificate,
                               list_of_revoked(directory)));
}

}  // namespace

Result<void> make_certificate_authority(const Options& options) {
  const std::string& directory = options.directory;
  const Files files = files_of_authority(directory);
  TRY(make_private_directory(private_directory(directory)));
  UniqueFd turn = TRY(take_turn(private_directory(directory)));
  if (std::filesystem::exists(files.key) || std::filesystem::exists(files.certificate)) {
    return fail(ErrorCode::kAlreadyExists, "there is an authority in {}", directory);
  }
  const Validity validity = validity_of(options.days == 0 ? limits::kAuthorityDays : options.days);
  const CertificateAndKey authority = TRY(make_authority("Thaw authority", validity));
  TRY(write_output(list_of_revoked(directory),
                   as_bytes(TRY(thaw::revoke_certificates(authority, "", "", validity)))));
  TRY(write_pair(files, authority));
  turn.reset();
  print_pair(files, validity, {},
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
  const CertificateAndKey issuer = TRY(read_authority(directory));
  UniqueFd turn = TRY(take_turn(private_directory(directory)));
  const std::string authority = files_of_authority(directory).certificate;
  const Validity validity = TRY(validity_within(issuer.certificate, options.days));
  const Files files(directory, options.name);
  const std::vector<std::string> hosts = TRY(hosts_for(options, files));
  const CertificateAndKey issued =
      TRY(thaw::issue_certificate(issuer, options.name, hosts, validity));
  TRY(note_issued(directory, options.name, issued.certificate));
  TRY(write_pair(files, issued));
  turn.reset();
  const std::string flags = flags_of(directory, files);
  const std::string others =
      printable(fmt::format("{} and {}", authority, list_of_revoked(directory)));
  const std::string next =
      hosts.empty()
          ? fmt::format(
                "Next, on a host that has these files, {}:\n  thaw --server HOST:PORT {} ls",
                others, flags)
          : fmt::format(
                "Next, on that host, with these files, {}:\n  thaw-pageserver --store DIRECTORY "
                "--listen {}:7433 --policy FILE {}",
                others, printable(bracketed(hosts.front())), flags);
  print_pair(files, validity, hosts, next, options.form());
  return {};
}

Result<void> revoke_certificate(const Options& options) {
  const std::string& directory = options.directory;
  const CertificateAndKey authority = TRY(read_authority(directory));
  UniqueFd turn = TRY(take_turn(private_directory(directory)));
  const bool is_path = options.name.contains('/');
  const std::string certificates = is_path ? TRY(read_text_file(options.name, limits::kMaxPemBytes))
                                           : TRY(issued_certificates(directory, options.name));
  if (certificates.empty()) {
    return fail(ErrorCode::kNotFound, "{} has issued no certificate \"{}\"", directory,
                options.name);
  }
  const std::string path = list_of_revoked(directory);
  const auto before = TRY(if_found(read_trusted_file(path, limits::kMaxRevokedBytes)));
  Validity validity = validity_of(0);
  validity.until = TRY(end_of_certificate(authority.certificate));
  const std::string list =
      TRY(revoke_certificates(authority, before.value_or(""), certificates, validity));
  TRY(write_output(path, as_bytes(list)));
  turn.reset();
  if (options.form() == OutputForm::kJson) {
    print_json({{"revoked", options.name}, {"list", path}});
    return {};
  }
  print_table({{"revoked", options.name}, {"list", path}});
  print_out(
      "Next, copy the list to each host, in the place of the file that --tls-crl names there.\n"
      "Programs read it within two seconds, refuse the certificates and close their "
      "connections.\n");
  return {};
}

}  // namespace thaw::command
