#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <thread>

#include <poll.h>

#include "base/command_line.h"
#include "base/event_fd.h"
#include "base/host.h"
#include "base/log.h"
#include "faulthandler/control_server.h"
#include "faulthandler/daemon.h"
#include "faulthandler/sys/create_loop.h"

namespace {

struct Options {
  std::string control = "/run/thaw/control.sock";
  std::string server = "127.0.0.1:7433";
  thaw::TransportFlags transport;
  std::string name_space = "default";
  std::string placement = "follow";
  std::string spin = "auto";
  std::uint32_t around = 64;
  std::uint32_t record_every = 64;
  std::uint64_t images_mib = thaw::usable_memory().value / 2 >> 20;
  unsigned workers = std::max(1u, std::min(4u, std::thread::hardware_concurrency()));
  bool verbose = false;
};

thaw::Result<void> run(const Options& options) {
  const thaw::UniqueFd signals = TRY(thaw::take_signals({SIGTERM, SIGINT}));
  const thaw::ServerAddress server = TRY(thaw::resolve_server(options.server, options.transport));
  thaw::PlacementOptions placement = TRY(thaw::parse_placement(options.placement));
  placement.spin = TRY(thaw::parse_spin(options.spin));
  const auto loop = TRY(thaw::create_loop());
  const auto tasks = TRY(thaw::TaskQueue::create());
  const auto workers = TRY(thaw::WorkerPool::create(options.workers));
  thaw::Daemon daemon(*loop, *tasks, *workers,
                      {.server = server,
                       .name_space = options.name_space,
                       .around = options.around,
                       .record_every = options.record_every,
                       .placement = placement,
                       .image_budget = {options.images_mib << 20}});

  std::function<void(int)> watch_signals;
  thaw::Operation signal_watch([&](int result) { watch_signals(result); });
  watch_signals = [&](int result) {
    if (result < 0) return;
    while (const int signal = thaw::next_signal(signals)) {
      thaw::log_info("signal {}: stopping", signal);
      daemon.request_stop();
    }
    loop->poll(signals, POLLIN, signal_watch);
  };

  const std::filesystem::path directory = std::filesystem::path(options.control).parent_path();
  std::error_code failed;
  if (!directory.empty()) std::filesystem::create_directories(directory, failed);
  if (failed) return thaw::fail_errno("create " + directory.string(), failed.value());
  const auto control = TRY(thaw::ControlServer::start(options.control, daemon));
  std::printf("ready on %s\n", options.control.c_str());
  std::fflush(stdout);
  // From here on nothing fails: what is under way in the loop must complete before it is destroyed.
  watch_signals(0);
  daemon.run();
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Serves the missing pages of restored VMs on this host from a page server.");
  app.add_option("--control", options.control, "Socket for `thaw prepare`, `ps` and `stop`")
      ->capture_default_str();
  app.add_option("--server", options.server, "HOST:PORT of the page server")->capture_default_str();
  thaw::add_transport_options(app, options.transport);
  app.add_option("--namespace", options.name_space, "Namespace where `prepare` names none")
      ->capture_default_str();
  app.add_option("--placement", options.placement,
                 "Where the thread that answers faults runs: follow (the CPU that faults), free "
                 "(anywhere), or the number of a CPU")
      ->capture_default_str();
  app.add_option("--spin-us", options.spin,
                 "Microseconds to look for more after some work before sleeping; auto: while VMs "
                 "are being restored, when it pays")
      ->capture_default_str();
  app.add_option("--around", options.around,
                 "Most pages that come along with a demanded one; 1: none")
      ->check(CLI::IsMember({1, 2, 4, 8, 16, 32, 64}))
      ->capture_default_str();
  app.add_option(
         "--record-every", options.record_every,
         "Of so many restores of a snapshot one records what its guest touches, without "
         "prefetch, to keep the working set true; one in 8 while it is made of fewer than three "
         "recordings; 0: only while there is none")
      ->capture_default_str();
  app.add_option("--workers", options.workers,
                 "Threads that decompress prefetched pages and put them in")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  app.add_option(
         "--images-mib", options.images_mib,
         "What shared images of snapshots may take up together; those that no VM uses are "
         "kept within it for the next VM. Half of this host's memory, or of what the cgroup "
         "of the handler may use")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_flag("--verbose", options.verbose, "Log details");
  thaw::add_configuration(app);
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv)) return *exit_code;

  thaw::start_logging("thaw-faulthandler",
                      options.verbose ? thaw::LogLevel::kDebug : thaw::LogLevel::kInfo);
  if (const auto result = run(options); !result) {
    thaw::log_error("{}", result.error().message());
    return 1;
  }
  return 0;
}
