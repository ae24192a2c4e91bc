#include <cstdio>
#include <filesystem>

#include "base/command_line.h"
#include "base/log.h"
#include "pageserver/limits.h"
#include "pageserver/sys/rocks_store.h"
#include "pageserver/sys/server.h"

namespace {

struct Options {
  std::string store;
  std::string listen = "127.0.0.1:7433";
  bool insecure = false;
  bool verbose = false;
  std::size_t max_connections = 1024;
  std::uint64_t min_free_mib = 256;
  std::size_t keep_recordings = thaw::limits::kDefaultKeptRecordings;
};

thaw::Result<void> run(const Options& options) {
  const thaw::TcpAddress listen = TRY(thaw::resolve_tcp(options.listen));
  if (!listen.is_loopback() && !options.insecure) {
    return thaw::fail(thaw::ErrorCode::kInvalidArgument,
                      "{} is not a loopback address, and guest memory would cross the network in "
                      "the clear; give --insecure to allow it",
                      options.listen);
  }
  std::error_code error;
  std::filesystem::create_directories(options.store, error);
  if (error) return thaw::fail_errno("create " + options.store, error.value());
  const auto store = TRY(thaw::open_rocks_store(options.store, {options.min_free_mib << 20}));
  return thaw::run_server(*store,
                          {.listen = listen,
                           .max_connections = options.max_connections,
                           .kept_recordings = options.keep_recordings},
                          [](const std::string& address) {
                            std::printf("listening on %s\n", address.c_str());
                            std::fflush(stdout);
                          });
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Keeps the snapshots of a fleet as deduplicated chunks and serves their pages.");
  app.add_option("--store", options.store, "Directory of the store; created if there is none")
      ->required();
  app.add_option("--listen", options.listen, "Address to listen on; port 0 picks a free one")
      ->capture_default_str();
  app.add_flag("--insecure", options.insecure, "Allow plain TCP on other than loopback addresses");
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
  app.add_flag("--verbose", options.verbose, "Log details");
  thaw::add_configuration(app);
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv)) return *exit_code;

  thaw::start_logging("thaw-pageserver",
                      options.verbose ? thaw::LogLevel::kDebug : thaw::LogLevel::kInfo);
  if (const auto result = run(options); !result) {
    thaw::log_error("{}", result.error().message());
    return 1;
  }
  return 0;
}
