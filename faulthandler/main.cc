#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <thread>
#include <utility>

#include <poll.h>

#include "base/command_line.h"
#include "base/confine.h"
#include "base/cpu.h"
#include "base/descriptor_store.h"
#include "base/event_fd.h"
#include "base/file.h"
#include "base/host.h"
#include "base/log.h"
#include "base/process.h"
#include "base/socket.h"
#include "faulthandler/control_server.h"
#include "faulthandler/daemon.h"
#include "faulthandler/limits.h"
#include "faulthandler/operator_port.h"
#include "faulthandler/supervisor.h"
#include "faulthandler/sys/create_loop.h"
#include "faulthandler/sys/epoll_loop.h"
#include "format/control_channel.h"

namespace {

/// Sockets and files are made in the jails of VMMs, for the users they run as; those are killed,
/// and their maps are read.
constexpr std::array kKeptCapabilities{thaw::Capability::kChown,    thaw::Capability::kDacOverride,
                                       thaw::Capability::kFowner,   thaw::Capability::kIpcLock,
                                       thaw::Capability::kKill,     thaw::Capability::kSysNice,
                                       thaw::Capability::kSysPtrace};

struct Options {
  std::string control = "/run/thaw/control.sock";
  std::vector<std::string> servers{"127.0.0.1:7433"};
  thaw::TransportFlags transport;
  std::string name_space = "default";
  std::string placement = "follow";
  std::string spin = "auto";
  std::uint32_t around = 64;
  std::uint32_t record_every = 64;
  std::uint64_t images_mib = thaw::usable_memory().value / 2 >> 20;
  std::string http;
  unsigned workers = std::max(1u, std::min(4u, std::thread::hardware_concurrency()));
  bool verbose = false;
  bool no_sandbox = false;
  bool supervised = false;
  bool upgrade = false;
};

/// All addresses of all names, in their order.
thaw::Result<std::vector<thaw::ServerAddress>> resolve(const std::vector<std::string>& names,
                                                       const thaw::TransportFlags& transport) {
  const auto tls = TRY(thaw::load_tls(transport, thaw::TlsContext::Side::kClient));
  std::vector<thaw::ServerAddress> servers;
  for (const std::string& name : names) {
    bool has_loopback = false;
    for (thaw::ServerAddress& server : TRY(thaw::resolve_servers(name, transport, tls))) {
      const auto same = [&](const thaw::ServerAddress& other) { return other.tcp == server.tcp; };
      if (std::ranges::any_of(servers, same)) continue;
      // "localhost" is one server, which most often listens on one of its addresses.
      if (server.tcp.is_loopback() && std::exchange(has_loopback, true)) continue;
      if (servers.size() == thaw::limits::kMaxServers) {
        thaw::log_warning("page server {} of {} is one too many: {} are the limit", server.text(),
                          name, thaw::limits::kMaxServers);
        continue;
      }
      servers.push_back(std::move(server));
    }
  }
  return servers;
}

/// Has `on_signal` called with each of the signals, on the loop's thread. In place before the loop
/// runs, and destroyed after it has.
class SignalWatch {
 public:
  SignalWatch(thaw::Loop& loop, const thaw::UniqueFd& signals, std::function<void(int)> on_signal)
      : loop_(loop), signals_(signals), on_signal_(std::move(on_signal)) {
    loop_.poll(signals_, POLLIN, watching_);
  }

 private:
  void on_readable(int result) {
    if (result < 0) return;
    while (const int signal = thaw::next_signal(signals_)) {
      thaw::log_info("signal {}: stopping", signal);
      on_signal_(signal);
    }
    loop_.poll(signals_, POLLIN, watching_);
  }

  thaw::Loop& loop_;
  const thaw::UniqueFd& signals_;
  const std::function<void(int)> on_signal_;
  thaw::Operation watching_{[this](int result) { on_readable(result); }};
};

/// Where operators are answered.
thaw::Result<thaw::UniqueFd> listen_for_operators(const Options& options) {
  const thaw::TcpAddress address = TRY(thaw::resolve_tcp(options.http));
  TRY(thaw::check_transport(address, {.tls = {}, .insecure = options.transport.insecure}));
  return thaw::listen_tcp(address);
}

/// Serves the VMs, as a supervisor's child.
thaw::Result<int> run_handler(const Options& options) {
  if (!options.no_sandbox) TRY(thaw::confine(kKeptCapabilities));
  const thaw::CpuSet cpus = TRY(thaw::allowed_cpus(0));
  const thaw::UniqueFd signals = TRY(thaw::take_signals({SIGTERM, SIGINT}));
  const auto servers = TRY(resolve(options.servers, options.transport));
  thaw::PlacementOptions placement = TRY(thaw::parse_placement(options.placement));
  placement.spin = TRY(thaw::parse_spin(options.spin));
  const auto loop = TRY(thaw::create_loop());
  const auto tasks = TRY(thaw::TaskQueue::create());
  const auto workers = TRY(thaw::WorkerPool::create(options.workers));
  const auto control_loop = TRY(thaw::create_epoll_loop());
  const auto control_tasks = TRY(thaw::TaskQueue::create());
  const auto prepares = TRY(thaw::WorkerPool::create(thaw::limits::kPrepareThreads));
  const auto other_commands = TRY(thaw::WorkerPool::create(thaw::limits::kControlThreads));

  std::unique_ptr<thaw::Daemon> daemon;
  // They go before the daemon does, which their threads use.
  std::unique_ptr<thaw::ControlServer> control;
  std::unique_ptr<thaw::OperatorPort> operators;
  std::jthread closing;  // joining their threads takes as long as they work
  thaw::Daemon::Supervised supervised{
      .supervisor = thaw::UniqueFd(thaw::ChildProcess::kChildDescriptor),
      .on_serving =
          [&](thaw::UniqueFd listener) {
            std::jthread([&] {
              thaw::give_up_precedence(cpus);  // which their threads would have, too
              control = std::make_unique<thaw::ControlServer>(
                  options.control, std::move(listener),
                  thaw::ControlServer::Tools{*control_loop, *control_tasks, *prepares,
                                             *other_commands},
                  thaw::ControlCommands{
                      .prepare =
                          [&](const thaw::control::Prepare& request, const std::stop_token& stop) {
                            return daemon->prepare(request, stop);
                          },
                      .handle =
                          [&](const thaw::ControlRequest& request) {
                            return daemon->handle(request);
                          }});
              if (options.http.empty()) return;
              operators = std::make_unique<thaw::OperatorPort>(thaw::OperatorPort::Calls{
                  .listen = [&] { return listen_for_operators(options); },
                  .report = [&] { return daemon->handle(thaw::control::List{}); }});
            });
          },
      .on_alone =
          [&] {
            closing =
                std::jthread([ended = std::pair(std::move(control), std::move(operators))] {});
          }};
  daemon = std::make_unique<thaw::Daemon>(
      *loop, *tasks, *workers, std::move(supervised),
      thaw::DaemonOptions{.servers = servers,
                          .name_space = options.name_space,
                          .around = options.around,
                          .record_every = options.record_every,
                          .placement = placement,
                          .image_budget = {options.images_mib << 20}});
  const SignalWatch watch(*loop, signals, [&](int) { daemon->request_stop(); });
  // From here on nothing fails: what is under way in the loop must complete before it is destroyed.
  daemon->run();
  tasks->close();
  return 0;
}

/// That which a supervisor before has kept, or a new one.
thaw::Result<thaw::UniqueFd> control_listener(const std::string& path,
                                              std::vector<thaw::NamedDescriptor>& passed) {
  const std::string name = thaw::kept_name(0, thaw::KeptRole::kListener);
  const auto kept = std::ranges::find(passed, name, &thaw::NamedDescriptor::name);
  if (kept != passed.end()) return std::move(kept->descriptor);
  return thaw::listen_unix(path, std::nullopt);
}

/// Keeps what must outlive the process that serves the VMs.
thaw::Result<int> supervise(const Options& options, thaw::Supervisor::Commands commands) {
  auto passed = TRY(thaw::take_passed_descriptors());
  TRY(thaw::raise_descriptor_limit());
  if (!options.no_sandbox) TRY(thaw::confine(kKeptCapabilities, thaw::SystemCalls::kOfAll));
  const thaw::UniqueFd signals = TRY(thaw::take_signals({SIGTERM, SIGINT}));
  const std::filesystem::path directory = std::filesystem::path(options.control).parent_path();
  std::error_code failed;
  if (!directory.empty()) std::filesystem::create_directories(directory, failed);
  if (failed) return thaw::fail_errno("create " + directory.string(), failed.value());
  // The process that serves will listen there. At the first start somebody reads why it cannot;
  // later, VMs wait for this process.
  if (!options.http.empty() && passed.empty()) TRY(listen_for_operators(options));
  thaw::UniqueFd control = TRY(control_listener(options.control, passed));
  const auto loop = TRY(thaw::create_epoll_loop());
  thaw::Supervisor supervisor(*loop, std::move(control), std::move(commands));
  supervisor.take_over(std::move(passed));
  const SignalWatch watch(*loop, signals, [&](int signal) { supervisor.signal(signal); });
  const int exit_code = supervisor.run([&] {
    std::printf("ready on %s\n", options.control.c_str());
    std::fflush(stdout);
  });
  thaw::remove_file(options.control);
  return exit_code;
}

/// What starts others with the arguments that this process has.
thaw::Supervisor::Commands commands_of(int argc, char** argv) {
  std::vector<std::string> command{thaw::own_program()};
  command.insert(command.end(), argv + 1, argv + argc);
  thaw::Supervisor::Commands commands{.handler = command, .supervisor = command};
  commands.handler.push_back("--supervised");
  return commands;
}

/// Has the supervisor that is running become this program, and waits until its sessions go on.
thaw::Result<int> upgrade(const std::string& control) {
  TRY(thaw::ask_fault_handler(control, thaw::control::Upgrade{}));
  // The socket is listened on all the time: who connects meanwhile is answered by the new handler,
  // and loses the connection only to the one that goes.
  const auto deadline = thaw::Deadline::after(thaw::limits::kControlTimeout);
  std::this_thread::sleep_for(2 * thaw::limits::kUpgradePause);
  auto reply = thaw::ask_fault_handler(control, thaw::control::List{});
  while (!reply && !deadline.passed()) {
    std::this_thread::sleep_for(thaw::limits::kUpgradePause);
    reply = thaw::ask_fault_handler(control, thaw::control::List{});
  }
  const auto report = std::get<thaw::HandlerReport>(TRY(std::move(reply)));
  std::printf("%zu sessions go on\n", report.sessions.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Serves the missing pages of restored VMs on this host from a page server.");
  app.add_option("--control", options.control, "Socket for `thaw prepare`, `ps` and `stop`")
      ->capture_default_str();
  app.add_option("--server", options.servers,
                 "HOST:PORT of a page server; several (again, or with commas), or a name of "
                 "several addresses, where any of "
                 "them may serve: all have to keep the same store")
      ->take_all()
      ->delimiter(',')
      ->capture_default_str();
  thaw::add_transport_options(app, options.transport);
  app.add_option("--namespace", options.name_space, "Namespace where `prepare` names none")
      ->capture_default_str();
  app.add_option("--placement", options.placement,
                 "Where the thread that answers faults runs: follow (the CPU that faults), free "
                 "(anywhere), or the number of a CPU")
      ->type_name("follow|free|CPU")
      ->capture_default_str();
  app.add_option("--spin-us", options.spin,
                 "Microseconds to look for more after some work before sleeping; auto: while VMs "
                 "are being restored, when it pays")
      ->type_name("US|auto")
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
  app.add_option("--http", options.http,
                 "HOST:PORT of a page for Prometheus, /metrics, and of /healthz; without it there "
                 "are none. Plain HTTP: on loopback, or with --insecure");
  app.add_flag("--verbose", options.verbose, "Log details");
  app.add_flag("--no-sandbox", options.no_sandbox,
               "Keep all system calls, capabilities and core dumps, for debugging");
  app.add_flag("--upgrade", options.upgrade,
               "Have the fault handler that listens at --control become the program that is "
               "installed now, under its running VMs, and end")
      ->configurable(false);
  // How the supervisor starts the process that serves.
  app.add_flag("--supervised", options.supervised)->group("")->configurable(false);
  thaw::add_configuration(app, "faulthandler");
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv)) return *exit_code;

  thaw::start_logging(options.supervised ? "thaw-faulthandler" : "thaw-supervisor",
                      options.verbose ? thaw::LogLevel::kDebug : thaw::LogLevel::kInfo);
  const auto ended = options.upgrade      ? upgrade(options.control)
                     : options.supervised ? run_handler(options)
                                          : supervise(options, commands_of(argc, argv));
  if (ended) return *ended;
  thaw::log_error("{}", ended.error().message());
  return 1;
}
