#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/command_line.h"
#include "base/confine.h"
#include "base/descriptor_limit.h"
#include "base/event_fd.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/memory_reserve.h"
#include "base/output.h"
#include "base/passed_descriptors.h"
#include "base/private_files.h"
#include "base/program.h"
#include "pageserver/descriptors.h"
#include "pageserver/limits.h"
#include "pageserver/store_check.h"
#include "pageserver/store_id.h"
#include "pageserver/sys/rocks_files.h"
#include "pageserver/sys/rocks_repair.h"
#include "pageserver/sys/rocks_store.h"
#include "pageserver/sys/server.h"

namespace {

/// For the threads that answer demands.
constexpr std::array kKeptCapabilities{thaw::Capability::kSysNice};

struct Options {
  std::string store;
  std::string listen = thaw::kDefaultServer;
  thaw::TransportFlags transport;
  std::string policy;
  bool allow_all = false;
  std::string log_file;
  bool verbose = false;
  bool no_sandbox = false;
  std::size_t max_connections = 1024;
  std::uint64_t min_free_mib = 256;
  std::size_t keep_recordings = thaw::limits::kDefaultKeptRecordings;
  std::string backups;
  std::uint64_t upkeep_mib_s = 64;
  unsigned upkeep_interval_s = 60;
  unsigned gc_percent = 10;
  unsigned gc_minutes = 60;
  unsigned pin_grace_s = 60;

  bool check = false;
  bool repair = false;
  bool json = false;
  std::string from_backup;
  bool replica = false;
};

thaw::UpkeepOptions upkeep_of(const Options& options) {
  return {.rate = {options.upkeep_mib_s << 20},
          .backups = options.backups,
          .interval = std::chrono::seconds(options.upkeep_interval_s),
          .garbage_percent = options.gc_percent,
          .most_garbage_age = std::chrono::minutes(options.gc_minutes)};
}

/// False when there are problems.
bool report(const thaw::StoreCheck& check, const Options& options) {
  if (options.json) {
    const nlohmann::ordered_json json{{"snapshots", check.snapshots},
                                      {"chunks", check.chunks},
                                      {"bytes", check.bytes},
                                      {"problems", check.problems}};
    thaw::print_out("{}\n",
                    json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    for (const std::string& problem : check.problems) thaw::print_out("{}\n", problem);
    thaw::print_out("{} snapshots, {} chunks of {} MiB, {} problems\n", check.snapshots,
                    check.chunks, check.bytes >> 20, check.problems.size());
  }
  return check.problems.empty();
}

/// As `thaw` prints it, for `thaw --json fsck`.
void print_error(const thaw::Error& error) {
  const nlohmann::ordered_json json{
      {"error", {{"code", error_name(error.code())}, {"text", error.message()}}}};
  thaw::print_out("{}\n",
                  json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

thaw::Result<bool> check(const Options& options, const thaw::StoreLimits& limits) {
  thaw::StoreCheck found;
  if (options.repair) found.problems = TRY(thaw::repair_files(options.store));
  auto opened = options.repair ? thaw::open_rocks_store(options.store, limits)
                               : thaw::open_rocks_reader(options.store, limits);
  if (!opened && opened.error().code() == thaw::ErrorCode::kCorrupt) {
    for (const thaw::DamagedFile& file : thaw::damaged_files(options.store, thaw::Reading::kAll)) {
      found.problems.push_back(file.text());
    }
    if (found.problems.empty()) found.problems.push_back(opened.error().context());
    return report(found, options);
  }
  const auto store = TRY(std::move(opened));
  thaw::StoreCheck checked = TRY(thaw::check_store(*store, options.repair));
  checked.problems.insert(checked.problems.begin(), found.problems.begin(), found.problems.end());
  if (auto damage = thaw::store_id_damage(options.store)) {
    checked.problems.push_back(*std::move(damage));
  }
  return report(checked, options);
}

thaw::Result<void> take_backup(const Options& options) {
  std::error_code ignored;
  if (std::filesystem::exists(options.from_backup + "/" + thaw::kStoreIdFile, ignored)) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument,
                      "{} is no backup but a store that was served: its copy would pass for it",
                      options.from_backup);
  }
  TRY(thaw::check_private_directory(options.from_backup));
  return thaw::copy_files(options.from_backup, options.store);
}

/// At once: what it has followed may be of two stores. Where it is started again, it is a replica
/// of what is there.
void end_replica(const thaw::Error& error) {
  thaw::log_error("this replica ends: {}", error.message());
  thaw::flush_log(thaw::Deadline::after(thaw::limits::kLogPatience));
  std::_Exit(thaw::server_exit_code_for(error.code()));
}

struct OpenedStore {
  std::unique_ptr<thaw::Store> store;
  thaw::StoreId id;
};
thaw::Result<OpenedStore> open_store(const Options& options, const thaw::StoreLimits& limits) {
  OpenedStore opened;
  if (options.replica) {
    const thaw::StoreWatch watch = TRY(thaw::StoreWatch::begin(options.store));
    opened.store = TRY(thaw::open_rocks_replica(watch, limits, end_replica));
    opened.id = watch.id();
  } else {
    opened.store = TRY(thaw::open_rocks_store(options.store, limits));
    opened.id = TRY(thaw::open_store_id(options.store));
  }
  return opened;
}

/// Refuses a policy where peers have no identity, and certificates without a policy unless told so.
/// Warns what it means to have none.
thaw::Result<void> check_access(const Options& options, const thaw::TcpAddress& listen) {
  const bool has_tls = !options.transport.tls.certificate.empty();
  if (!options.policy.empty() && !has_tls && !listen.is_unix()) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument,
                      "--policy needs --tls-cert or a UNIX socket: plain TCP identifies no peer");
  }
  if (has_tls && options.policy.empty() && !options.allow_all) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument,
                      "--tls-cert needs --policy FILE, which says what each certificate may do, or "
                      "--allow-all");
  }
  if (!has_tls && options.allow_all) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument, "--allow-all needs --tls-cert");
  }
  if (options.allow_all) {
    thaw::log_warning("--allow-all: every certificate of {} may read, change and delete everything",
                      options.transport.tls.authority);
  } else if (!has_tls && !listen.is_unix()) {
    thaw::log_warning(
        "--insecure: every program that reaches {} may read, change and delete everything",
        listen.text());
  }
  return {};
}

void warn_of_descriptors(const thaw::TcpAddress& listen) {
  if (!listen.is_unix() || thaw::can_refuse_descriptors()) return;
  thaw::log_warning(
      "this kernel has no SO_PASSRIGHTS (Linux 6.16): users who may connect to {} may send "
      "descriptors, and the close of one may take long",
      listen.text());
}

/// Makes the directories that the server writes to. What it may not make later is there then.
thaw::Result<void> make_directories(const Options& options, const thaw::TcpAddress& listen) {
  if (!options.from_backup.empty()) {
    TRY(take_backup(options));
  } else if (!options.replica) {
    TRY(thaw::make_private_directory(options.store));
  }
  if (!options.backups.empty()) TRY(thaw::make_private_directory(options.backups));
  if (listen.is_unix()) TRY(thaw::make_public_directory(thaw::directory_of(listen.unix_path())));
  return {};
}

/// All that it opens once it serves.
thaw::FilesLeft files_left(const Options& options, const thaw::TcpAddress& listen) {
  thaw::FilesLeft left{.read = {"/etc", "/usr", "/lib", "/lib64", "/proc", "/sys", "/dev/null",
                                "/dev/random", "/dev/urandom"},
                       .write = {options.store}};
  const thaw::TlsFiles& tls = options.transport.tls;
  for (const std::string& file :
       {tls.certificate, tls.key, tls.authority, tls.revoked, options.policy}) {
    if (!file.empty()) std::ranges::move(thaw::places_of(file), std::back_inserter(left.read));
  }
  if (!options.backups.empty()) left.write.push_back(options.backups);
  if (!options.log_file.empty()) left.write.push_back(thaw::log_place(options.log_file));
  if (listen.is_unix()) left.write.push_back(thaw::directory_of(listen.unix_path()));
  return left;
}

/// False when a check has found problems.
thaw::Result<bool> run(const Options& options) {
  thaw::TcpAddress listen;
  std::shared_ptr<thaw::TlsContext> tls;
  if (!options.check) {
    listen = TRY(thaw::resolve_tcp(options.listen));
    TRY(thaw::check_transport(listen, options.transport));
    tls = TRY(thaw::load_tls(options.transport, thaw::TlsContext::Side::kServer));
    TRY(check_access(options, listen));
  }
  const std::size_t descriptors = thaw::raise_descriptor_limit();
  thaw::keep_memory_reserve(thaw::limits::kMemoryReserve);
  const thaw::DescriptorShares shares =
      thaw::share_descriptors(descriptors, options.max_connections);
  const thaw::StoreLimits limits{.min_free = {options.min_free_mib << 20},
                                 .open_tables = shares.tables};
  if (!options.check) TRY(make_directories(options, listen));
  if (!options.no_sandbox) {
    TRY(thaw::confine(kKeptCapabilities, thaw::SystemCalls::kOfServers,
                      files_left(options, listen)));
  }
  TRY(thaw::write_log_in_background(options.log_file));
  if (options.check) return check(options, limits);
  warn_of_descriptors(listen);
  // Before the store, which starts threads.
  const thaw::UniqueFd signals = TRY(thaw::take_signals({SIGTERM, SIGINT, SIGQUIT, SIGHUP}));
  const auto [store, store_id] = TRY(open_store(options, limits));
  thaw::log_info("{} connections and {} tables may be open, of {} descriptors", shares.connections,
                 shares.tables, descriptors);
  if (shares.connections < options.max_connections) {
    thaw::log_warning("the limit of descriptors allows {} connections, --max-connections wants {}",
                      shares.connections, options.max_connections);
  }
  TRY(thaw::run_server(
      *store,
      {.listen = listen,
       .store_id = store_id,
       .use = options.replica ? thaw::StoreUse::kReplica : thaw::StoreUse::kOwn,
       .tls = tls,
       .policy = options.policy,
       .descriptors = shares,
       .kept_recordings = options.keep_recordings,
       .upkeep = upkeep_of(options),
       .pin_grace = std::chrono::seconds(options.pin_grace_s)},
      signals, [](const std::string& address) { thaw::announce("listening on " + address); }));
  if (const auto flushed = store->flush(); !flushed) {
    thaw::log_warning("the next start reads the store's log: {}", flushed.error().message());
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  thaw::begin_program(thaw::ProgramKind::kServer);
  Options options;
  CLI::App app("Keeps the snapshots of a fleet as deduplicated chunks and serves their pages.");
  app.add_option(
         "--store", options.store,
         "Directory of the store, which other users must not be able to enter; created if there is "
         "none")
      ->required();
  app.add_option("--listen", options.listen,
                 "unix:PATH of a socket, or HOST:PORT, where port 0 picks a free one")
      ->capture_default_str();
  thaw::add_transport_options(app, options.transport);
  CLI::Option* const policy = app.add_option(
      "--policy", options.policy,
      "TOML file of which certificate (with TLS) or user (UNIX socket) may do what in which "
      "namespaces, read again when it has changed; without it, on a UNIX socket root and the "
      "server's user may do everything");
  app.add_flag(
         "--allow-all", options.allow_all,
         "With TLS and without --policy: every certificate of the authority may do everything")
      ->excludes(policy);
  app.add_option("--max-connections", options.max_connections, "Peers at one time")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--min-free-mib", options.min_free_mib,
                 "Refuse pushes that would leave less than this on the store's file system")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--keep-recordings", options.keep_recordings,
                 "Recordings of a snapshot that its working set is made of, the last ones")
      ->check(CLI::Range(std::size_t{1}, thaw::limits::kMaxRecordings))
      ->capture_default_str();
  app.add_option("--backups", options.backups,
                 "Directory that `thaw backup` may write to; without it there are no backups");
  CLI::Option* const from_backup =
      app.add_option("--from-backup", options.from_backup,
                     "Begin with a copy of this backup; the store must be empty");
  CLI::Option* const replica = app.add_flag(
      "--replica", options.replica,
      "Only serve what is in the store, which another page server may own and write to, a moment "
      "after it; for fault handlers that are given both servers");
  replica->excludes(from_backup);
  app.add_option("--upkeep-mib-s", options.upkeep_mib_s,
                 "What gc and scrub may read and delete a second")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option(
         "--upkeep-interval-s", options.upkeep_interval_s,
         "Look so often for snapshots and chunks that are to be deleted; 0: only when asked")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
  app.add_option("--gc-percent", options.gc_percent,
                 "Collect garbage when so much of a namespace may be garbage")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app.add_option("--gc-minutes", options.gc_minutes,
                 "and if there is any, at the latest after so long")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--pin-grace-s", options.pin_grace_s,
                 "Snapshots deleted with --when-unused stay so long after their last restore went "
                 "away, or after a start, in case a fault handler comes back")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
  CLI::Option* const check_only =
      app.add_flag("--check", options.check, "Check the store, say what is wrong, and end");
  check_only->excludes(replica)->configurable(false);
  app.add_flag("--repair", options.repair, "Correct what can be corrected")
      ->needs(check_only)
      ->configurable(false);
  app.add_flag("--json", options.json, "Print the result of a check as JSON")
      ->needs(check_only)
      ->configurable(false);
  app.add_option("--log-file", options.log_file,
                 "File that the log is appended to, opened again on SIGHUP; without it, stderr");
  app.add_flag("--verbose", options.verbose, "Log details");
  app.add_flag("--no-sandbox", options.no_sandbox,
               "Keep all system calls, files, capabilities and core dumps, for debugging");
  thaw::add_configuration(app, "pageserver");
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv)) return *exit_code;

  thaw::start_logging("thaw-pageserver",
                      options.verbose ? thaw::LogLevel::kDebug : thaw::LogLevel::kInfo);
  const auto result = run(options);
  if (!result) {
    thaw::log_error("{}", result.error().message());
    if (options.json) print_error(result.error());
    const thaw::ErrorCode code = result.error().code();
    return thaw::finish_output(options.check ? thaw::exit_code_for(code)
                                             : thaw::server_exit_code_for(code));
  }
  return thaw::finish_output(*result ? 0 : 1);
}
