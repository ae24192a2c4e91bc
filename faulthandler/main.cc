#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include <poll.h>

#include "base/background_task.h"
#include "base/command_line.h"
#include "base/confine.h"
#include "base/cpu.h"
#include "base/descriptor_limit.h"
#include "base/descriptor_store.h"
#include "base/event_fd.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "base/log_file.h"
#include "base/memory_cgroup.h"
#include "base/output.h"
#include "base/passed_descriptors.h"
#include "base/private_files.h"
#include "base/process.h"
#include "base/program.h"
#include "base/socket.h"
#include "base/thread.h"
#include "faulthandler/control_server.h"
#include "faulthandler/daemon.h"
#include "faulthandler/door_maker.h"
#include "faulthandler/handler_settings.h"
#include "faulthandler/inheritance.h"
#include "faulthandler/limits.h"
#include "faulthandler/operator_port.h"
#include "faulthandler/pulse.h"
#include "faulthandler/server_names.h"
#include "faulthandler/settle_settings.h"
#include "faulthandler/supervisor.h"
#include "faulthandler/sys/create_loop.h"
#include "faulthandler/sys/door_process.h"
#include "faulthandler/sys/epoll_loop.h"
#include "faulthandler/upgrade_guard.h"
#include "format/control_channel.h"

namespace {

/// VMMs run as other users, and are killed.
constexpr std::array kHandlerCapabilities{thaw::Capability::kIpcLock, thaw::Capability::kKill,
                                          thaw::Capability::kSysNice};
/// Of the threads that do errands: VMMs are looked at.
constexpr std::array kErrandCapabilities{thaw::Capability::kSysPtrace};
/// Of doors: a VMM that no handler can serve is killed.
constexpr std::array kDoorCapabilities{thaw::Capability::kKill};
/// Beside those that it leaves to others: the sockets in the jails of VMMs are removed.
constexpr std::array kSupervisorCapabilities{
    thaw::Capability::kDacOverride, thaw::Capability::kIpcLock, thaw::Capability::kKill,
    thaw::Capability::kSysNice, thaw::Capability::kSysPtrace};

/// Those that end the server, and SIGHUP, which has it read its files again.
constexpr std::initializer_list<int> kSignals{SIGTERM, SIGINT, SIGQUIT, SIGHUP};

/// How the supervisor starts the process that serves.
constexpr const char* kHandlerArgument = "--supervised";
/// The same of the process that doors for VMMs are forked of.
constexpr const char* kDoorsArgument = "--doors";

void start_logging(std::string_view program, const thaw::HandlerSettings& settings) {
  thaw::start_logging(program, settings.verbose ? thaw::LogLevel::kDebug : thaw::LogLevel::kInfo);
}

/// All that a handler opens once it serves: its own state, what threads of VMMs do and how much
/// memory there is, libraries, name servers if it asks them, certificates, and its log.
thaw::FilesLeft files_left(const thaw::HandlerSettings& settings) {
  thaw::FilesLeft left{.read = {"/proc", "/sys/fs/cgroup", "/sys/devices/system", "/usr", "/lib",
                                "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/ssl"}};
  const auto [first, second] = thaw::CgroupMounts::find();
  for (const auto& mount : {first, second}) {
    if (mount) left.read.push_back(mount->at.string());
  }
  const bool asks_names =
      !settings.http.empty() || !std::ranges::all_of(settings.servers, thaw::is_numeric);
  if (asks_names) {
    std::ranges::move(thaw::places_of("/etc/resolv.conf"), std::back_inserter(left.read));
  }
  const thaw::TlsFiles& tls = settings.transport.tls;
  for (const std::string& file : {tls.certificate, tls.key, tls.authority, tls.revoked}) {
    if (!file.empty()) std::ranges::move(thaw::places_of(file), std::back_inserter(left.read));
  }
  if (!settings.log_file.empty()) left.write.push_back(thaw::log_place(settings.log_file));
  return left;
}

thaw::Result<void> confine_handler(const thaw::HandlerSettings& settings) {
  if (settings.no_sandbox) return {};
  return thaw::confine(kHandlerCapabilities, thaw::SystemCalls::kOfServers, files_left(settings));
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
      thaw::log_info("signal {}: {}", signal, signal == SIGHUP ? "reloading" : "stopping");
      on_signal_(signal);
    }
    loop_.poll(signals_, POLLIN, watching_);
  }

  thaw::Loop& loop_;
  const thaw::UniqueFd& signals_;
  const std::function<void(int)> on_signal_;
  thaw::Operation watching_{[this](int result) { on_readable(result); }};
};

/// Keeps the daemon's settings true, and the supervisor's with them.
std::unique_ptr<thaw::SettingsWatch> watch_settings(const thaw::HandlerSettings& settings,
                                                    const std::shared_ptr<thaw::TlsContext>& tls,
                                                    thaw::TaskQueue& tasks, thaw::Daemon& daemon) {
  return std::make_unique<thaw::SettingsWatch>(
      settings, tls, [&tasks, &daemon, tls](const thaw::HandlerSettings& now) {
        auto kept = thaw::keep_settings(now);
        if (!kept) return thaw::log_error("settings: {}", kept.error().message());
        // Functions that are copied own nothing that cannot be.
        const auto file = std::make_shared<thaw::UniqueFd>(*std::move(kept));
        const auto posted =
            tasks.post([&daemon, file, servers = thaw::addresses_of(now.resolved, tls),
                        unresolved = thaw::unresolved_names(now.resolved)] {
              daemon.take_servers(servers, unresolved, std::move(*file));
            });
        if (!posted) thaw::log_warning("settings: {}", posted.error().message());
      });
}

/// Connections to the supervisor, and the event of the loop's pulse.
struct FromSupervisor {
  thaw::UniqueFd connection;
  thaw::UniqueFd pulse;
  thaw::UniqueFd errands;
};

/// Serves the VMs, as a supervisor's child: by what the supervisor gives it, and nothing else.
thaw::Result<int> run_handler(FromSupervisor given, const thaw::HandlerSettings& settings) {
  TRY(confine_handler(settings));
  // VMs wait for this process: a log that cannot be opened any more costs its lines alone.
  TRY(thaw::write_log_where_possible(settings.log_file));
  const thaw::CpuSet cpus = TRY(thaw::allowed_cpus(0));
  const thaw::UniqueFd signals = TRY(thaw::take_signals(kSignals));
  const auto tls = TRY(thaw::tls_of(settings));
  thaw::PlacementOptions placement = TRY(thaw::parse_placement(settings.placement));
  placement.spin = TRY(thaw::parse_spin(settings.spin));
  const auto loop = TRY(thaw::create_loop());
  const auto tasks = TRY(thaw::TaskQueue::create());
  const auto workers = TRY(thaw::WorkerPool::create(settings.workers));
  const auto control_loop = TRY(thaw::create_epoll_loop());
  const auto control_tasks = TRY(thaw::TaskQueue::create());
  // Their threads come after those that VMs need.
  std::unique_ptr<thaw::WorkerPool> prepares;
  std::unique_ptr<thaw::WorkerPool> other_commands;

  std::unique_ptr<thaw::Daemon> daemon;
  // They go before the daemon does, which their threads use.
  std::unique_ptr<thaw::ControlServer> control;
  std::unique_ptr<thaw::OperatorPort> operators;
  std::jthread closing;  // joining their threads takes as long as they work
  thaw::UniqueFd listener;
  const auto serve_operators = [&]() -> thaw::Result<void> {
    std::optional<thaw::Error> failure;
    auto thread = TRY(thaw::start_thread([&] {
      thaw::give_up_precedence(cpus);  // which their threads would have, too
      const auto served = thaw::within_limits([&]() -> thaw::Result<void> {
        if (control == nullptr) {
          using thaw::limits::kControlThreads;
          using thaw::limits::kPrepareThreads;
          if (other_commands == nullptr) {
            other_commands = TRY(thaw::WorkerPool::create(kControlThreads));
          }
          if (prepares == nullptr) prepares = TRY(thaw::WorkerPool::create(kPrepareThreads));
          control = std::make_unique<thaw::ControlServer>(
              settings.control, TRY(thaw::duplicate(listener)),
              thaw::ControlServer::Tools{*control_loop, *control_tasks, *prepares, *other_commands},
              thaw::ControlCommands{
                  .prepare =
                      [&](const thaw::control::Prepare& request, thaw::SessionObjects objects,
                          const std::stop_token& stop) {
                        return daemon->prepare(request, std::move(objects), stop);
                      },
                  .handle =
                      [&](const thaw::ControlRequest& request) {
                        return daemon->handle(request);
                      }});
        }
        if (settings.http.empty() || operators != nullptr) return {};
        operators = std::make_unique<thaw::OperatorPort>(thaw::OperatorPort::Calls{
            .listen = [&] { return thaw::listen_for_operators(settings); },
            .report = [&] { return daemon->handle(thaw::control::List{}); },
            .health = [] { return thaw::HttpPage{200, "ok\n"}; }});
        return {};
      });
      if (!served) failure = served.error();
    }));
    thread.join();
    if (failure) return std::unexpected(*failure);
    return {};
  };
  // VMs are served whether operators are or not.
  std::function<void()> try_to_serve_operators;
  thaw::Operation trying_again{[&](int result) {
    if (result == -ETIME && listener.valid()) try_to_serve_operators();
  }};
  try_to_serve_operators = [&] {
    const auto served = serve_operators();
    if (served) return;
    thaw::log_error("no commands are heard yet: {}", served.error().message());
    if (!trying_again.active()) loop->wait(thaw::limits::kRestartMost, trying_again);
  };
  thaw::Daemon::Supervised supervised{
      .supervisor = std::move(given.connection),
      .errands = std::move(given.errands),
      .on_serving =
          [&](thaw::UniqueFd heard) {
            listener = std::move(heard);
            if (control != nullptr) {
              auto copy = thaw::duplicate(listener);
              if (!copy) return thaw::log_error("control socket: {}", copy.error().message());
              return control->hear(*std::move(copy));
            }
            // From here on it serves its VMs to the end if the supervisor dies.
            const auto goes_on = thaw::set_orphan_fate(thaw::OrphanFate::kGoesOn);
            if (!goes_on) thaw::log_error("{}", goes_on.error().message());
            try_to_serve_operators();
          },
      .on_alone =
          [&] {
            listener.reset();
            closing =
                std::jthread([ended = std::pair(std::move(control), std::move(operators))] {});
          }};
  daemon = std::make_unique<thaw::Daemon>(
      *loop, *tasks, *workers, std::move(supervised),
      thaw::DaemonOptions{.servers = thaw::addresses_of(settings.resolved, tls),
                          .unresolved = thaw::unresolved_names(settings.resolved),
                          .name_space = settings.name_space,
                          .around = settings.around,
                          .record_every = settings.record_every,
                          .placement = placement,
                          .image_budget = {settings.images_mib << 20},
                          .index_budget = {settings.index_mib << 20}});
  thaw::BackgroundTask reload([&] {
    if (tls != nullptr) tls->reload();
  });
  const SignalWatch watch(*loop, signals, [&](int signal) {
    if (signal != SIGHUP) return daemon->request_stop();
    thaw::reopen_log();
    reload.request();
  });
  const thaw::PulseAnswer answer(*loop, std::move(given.pulse));
  const auto settings_watch = watch_settings(settings, tls, *tasks, *daemon);
  // From here on nothing fails: what is under way in the loop must complete before it is destroyed.
  daemon->run();
  tasks->close();
  return 0;
}

/// A handler of the supervisor that has started this process.
thaw::Result<int> handle() {
  TRY(thaw::set_orphan_fate(thaw::OrphanFate::kIsKilled));
  thaw::UniqueFd supervisor(thaw::ChildProcess::kChildDescriptor);
  const auto deadline = thaw::Deadline::after(thaw::limits::kSettings);
  const thaw::UniqueFd given = TRY(thaw::take_over(supervisor, deadline));
  thaw::UniqueFd pulse = TRY(thaw::take_over(supervisor, deadline));
  thaw::UniqueFd errands = TRY(thaw::take_over(supervisor, deadline));
  const thaw::HandlerSettings settings = TRY(thaw::read_settings(given));
  start_logging("thaw-faulthandler", settings);
  return run_handler({std::move(supervisor), std::move(pulse), std::move(errands)}, settings);
}

/// Shows a supervisor that runs that this program could follow it.
thaw::Result<int> prove(thaw::HandlerSettings given) {
  const thaw::UniqueFd supervisor(thaw::ChildProcess::kChildDescriptor);
  const thaw::UniqueFd in_force =
      TRY(thaw::take_over(supervisor, thaw::Deadline::after(thaw::limits::kSettings)));
  const thaw::HandlerSettings before = TRY(thaw::read_settings(in_force));
  if (before.record_version != thaw::kRecordVersion) {
    return thaw::fail(
        thaw::ErrorCode::kBadVersion,
        "records of VMs have version {} and not {}: it cannot take VMs over; stop the "
        "fault handler when the last one has ended, and start this program",
        before.record_version, thaw::kRecordVersion);
  }
  given.command = before.command;
  const thaw::HandlerSettings settled =
      TRY(thaw::settle(std::move(given), &before, thaw::SettingsUse::kProof));
  // What a handler does before it can be told anything.
  TRY(confine_handler(settled));
  TRY(thaw::check_log_file(settled.log_file));
  TRY(thaw::create_loop());
  TRY(thaw::hand_over(supervisor, TRY(thaw::keep_settings(settled))));
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

std::function<void()> begin_errands(const thaw::HandlerSettings& settings) {
  if (settings.no_sandbox) return [] {};
  return [] {
    const auto kept = thaw::keep_capabilities(kErrandCapabilities);
    if (!kept) thaw::log_warning("errands keep all rights: {}", kept.error().message());
  };
}

/// Lets VMMs in, as the supervisor orders, each in a copy of this process.
thaw::Result<int> make_doors() {
  thaw::name_process("thaw-door");
  thaw::DoorOrders given = TRY(thaw::take_door_orders(TRY(thaw::take_passed_descriptors())));
  const thaw::HandlerSettings settings = TRY(thaw::read_settings(given.settings));
  start_logging("thaw-door", settings);
  TRY(thaw::open_ordered_doors(std::move(given.connection), [&]() -> thaw::Result<void> {
    if (settings.no_sandbox) return {};
    return thaw::confine(kDoorCapabilities, thaw::SystemCalls::kOfServers,
                         thaw::FilesLeft{.read = {"/proc"}});
  }));
  return 0;
}

/// Keeps what must outlive the process that serves the VMs.
thaw::Result<int> supervise(const thaw::HandlerSettings& settings, thaw::Inheritance before,
                            std::vector<thaw::NamedDescriptor> passed) {
  thaw::raise_descriptor_limit();
  if (!settings.no_sandbox) TRY(thaw::confine(kSupervisorCapabilities, thaw::SystemCalls::kOfAll));
  TRY(passed.empty() ? thaw::write_log_in_background(settings.log_file)
                     : thaw::write_log_where_possible(settings.log_file));
  if (!thaw::can_refuse_descriptors()) {
    thaw::log_warning(
        "this kernel has no SO_PASSRIGHTS (Linux 6.16): VMMs may send descriptors after their "
        "handoff, and the close of one may take long");
  }
  const thaw::UniqueFd signals = TRY(thaw::take_signals(kSignals));
  if (passed.empty()) {
    TRY(thaw::make_public_directory(std::filesystem::path(settings.control).parent_path()));
  }
  thaw::UniqueFd control = TRY(control_listener(settings.control, passed));
  const auto loop = TRY(thaw::create_epoll_loop());
  thaw::Supervisor supervisor(*loop, std::move(control),
                              {.handler = {settings.command.front(), kHandlerArgument},
                               .handler_file = thaw::kRunningProgram,
                               .doors = {settings.command.front(), kDoorsArgument},
                               .successor = settings.command,
                               .control = settings.control,
                               .begin_errands = begin_errands(settings)},
                              std::move(before));
  supervisor.take_over(std::move(passed));
  const SignalWatch watch(*loop, signals, [&](int signal) {
    signal == SIGHUP ? supervisor.reload() : supervisor.signal(signal);
  });
  return supervisor.run([&] { thaw::announce("ready on " + settings.control); });
}

/// What this supervisor runs by: what the program before has proven or had in force, or else what
/// the operator gives now.
thaw::Result<thaw::HandlerSettings> settings_after(const thaw::Inheritance& before, bool has_kept,
                                                   thaw::HandlerSettings given) {
  if (!before.settings.valid()) {
    return thaw::settle(std::move(given), nullptr,
                        has_kept ? thaw::SettingsUse::kRestart : thaw::SettingsUse::kFirstStart);
  }
  const thaw::HandlerSettings in_force = TRY(thaw::read_settings(before.settings));
  auto settled = thaw::settle(std::move(given), &in_force, thaw::SettingsUse::kRestart);
  if (settled) return settled;
  thaw::log_error("going on by the settings that were in force: {}", settled.error().message());
  return in_force;
}

/// The words that this process was started with, the program's place first.
std::vector<std::string> command_of(int argc, char** argv) {
  std::vector<std::string> command{thaw::own_program()};
  command.insert(command.end(), argv + 1, argv + argc);
  return command;
}

/// Has the supervisor that is running become the program that is installed now, and waits until it
/// has, or has not.
thaw::Result<int> upgrade(const std::string& control) {
  const auto deadline = thaw::Deadline::after(thaw::limits::kUpgrade);
  const auto asked = TRY(thaw::ask_fault_handler(control, thaw::control::Upgrade{}));
  const auto* const upgrading = std::get_if<thaw::Upgrading>(&asked);
  if (upgrading == nullptr) return thaw::fail(thaw::ErrorCode::kProtocol, "another reply");
  // The socket is listened on all the time: a request is answered by the handler that goes or by
  // the one that comes, and is lost only with the one that goes.
  while (!deadline.passed()) {
    std::this_thread::sleep_for(2 * thaw::limits::kUpgradePause);
    const auto reply = thaw::ask_fault_handler(control, thaw::control::List{});
    const auto* const report = reply ? std::get_if<thaw::HandlerReport>(&*reply) : nullptr;
    if (report == nullptr || report->upgrades < upgrading->upgrade) continue;
    if (!report->upgrade_failure.empty()) {
      return thaw::fail(thaw::ErrorCode::kUnavailable,
                        "not upgraded, the program before goes on: {}", report->upgrade_failure);
    }
    thaw::print_out("{} sessions go on\n", report->sessions.size());
    return 0;
  }
  return thaw::fail(thaw::ErrorCode::kTimeout, "the upgrade has not come to an end");
}

struct Options {
  thaw::HandlerSettings settings;
  bool upgrade = false;
  bool prove = false;
};

void add_options(CLI::App& app, Options& options) {
  thaw::HandlerSettings& settings = options.settings;
  app.add_option("--control", settings.control, "Socket for `thaw prepare`, `ps` and `stop`")
      ->capture_default_str();
  app.add_option(
         "--server", settings.servers,
         "unix:PATH or HOST:PORT of a page server; several (again, or with commas), or a name of "
         "several addresses, where any of "
         "them may serve: all have to keep the same store. Names are resolved again while "
         "the handler serves")
      ->take_all()
      ->delimiter(',')
      ->capture_default_str();
  thaw::add_transport_options(app, settings.transport);
  app.add_option("--namespace", settings.name_space, "Namespace where `prepare` names none")
      ->capture_default_str();
  app.add_option("--placement", settings.placement,
                 "Where the thread that answers faults runs: follow (the CPU that faults), free "
                 "(anywhere), or the number of a CPU")
      ->type_name("follow|free|CPU")
      ->capture_default_str();
  app.add_option("--spin-us", settings.spin,
                 "Microseconds to look for more after some work before sleeping; auto: while VMs "
                 "are being restored, when it pays")
      ->type_name("US|auto")
      ->capture_default_str();
  app.add_option("--around", settings.around,
                 "Most pages that come along with a demanded one; 1: none")
      ->check(CLI::IsMember({1, 2, 4, 8, 16, 32, 64}))
      ->capture_default_str();
  app.add_option(
         "--record-every", settings.record_every,
         "Of so many restores of a snapshot one records what its guest touches, without "
         "prefetch, to keep the working set true; one in 8 while it is made of fewer than three "
         "recordings; 0: only while there is none")
      ->capture_default_str();
  app.add_option("--workers", settings.workers,
                 "Threads that decompress prefetched pages and put them in")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  app.add_option(
         "--images-mib", settings.images_mib,
         "What shared images of snapshots may take up together; those that no VM uses are "
         "kept within it for the next VM. Half of this host's memory, or of what the cgroup "
         "of the handler may use")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--index-mib", settings.index_mib,
                 "What the page maps of all snapshots in use may take of memory together; a "
                 "session beyond it is refused. A sixteenth of this host's memory, or of what the "
                 "cgroup of the handler may use")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--http", settings.http,
                 "HOST:PORT of a page for Prometheus, /metrics, and of /healthz; without it there "
                 "are none. Plain HTTP: on loopback, or with --http-public");
  app.add_flag("--http-public", settings.http_public,
               "Let --http name an address that other hosts reach: they may read what it shows");
  app.add_option("--log-file", settings.log_file,
                 "File that the log is appended to, opened again on SIGHUP; without it, stderr");
  app.add_flag("--verbose", settings.verbose, "Log details");
  app.add_flag("--no-sandbox", settings.no_sandbox,
               "Keep all system calls, capabilities and core dumps, for debugging");
  app.add_flag("--upgrade", options.upgrade,
               "Have the fault handler that listens at --control become the program that is "
               "installed now, under its running VMs, and end. That program is proven first: if it "
               "cannot serve with the configuration as it is now, nothing changes")
      ->configurable(false);
  // How a supervisor asks a program that may follow it.
  app.add_flag(thaw::SuccessorProof::kArgument, options.prove)->group("")->configurable(false);
  thaw::add_configuration(app, "faulthandler");
}

/// Beside what says which program is meant, an upgrade would take flags and not use them.
thaw::Result<void> check_upgrade_words(std::span<char*> words) {
  constexpr std::array<std::string_view, 3> kTaken{"--upgrade", "--control", "--config"};
  for (const std::string_view word : words) {
    const std::string_view name = word.substr(0, word.find('='));
    if (!name.starts_with("--") || std::ranges::find(kTaken, name) != kTaken.end()) continue;
    return thaw::fail(thaw::ErrorCode::kInvalidArgument,
                      "{}: an upgrade keeps the flags of the running program; beside --upgrade "
                      "only --control and --config may stand",
                      name);
  }
  return {};
}

thaw::Result<int> run(int argc, char** argv) {
  const std::string role = argc == 2 ? argv[1] : "";
  if (role == kHandlerArgument) return handle();
  if (role == kDoorsArgument) return make_doors();
  if (role == thaw::kGuardArgument) {
    thaw::start_logging("thaw-supervisor", thaw::LogLevel::kInfo);
    return thaw::guard_upgrade();
  }

  auto passed = TRY(thaw::take_passed_descriptors());
  thaw::Inheritance before = thaw::take_inheritance(passed);
  thaw::HandlerSettings settings;
  if (before.of_upgrade) {
    // They were proven a moment ago, or are those of the program before.
    settings = TRY(thaw::read_settings(before.settings));
    start_logging("thaw-supervisor", settings);
  } else {
    Options options;
    CLI::App app("Serves the missing pages of restored VMs on this host from a page server.");
    add_options(app, options);
    const auto exit_code = thaw::parse_command_line(app, argc, argv);
    // VMs wait for this process: nothing that has become wrong may keep it from serving them.
    const bool goes_on = exit_code && *exit_code != 0 && before.settings.valid();
    if (exit_code && !goes_on) return *exit_code;
    start_logging("thaw-supervisor", options.settings);
    if (options.upgrade) {
      TRY(check_upgrade_words({argv + 1, argv + argc}));
      return upgrade(options.settings.control);
    }
    if (options.prove) return prove(std::move(options.settings));
    options.settings.command = command_of(argc, argv);
    if (goes_on) {
      thaw::log_error("going on by the settings that were in force");
      settings = TRY(thaw::read_settings(before.settings));
    } else {
      settings = TRY(settings_after(before, !passed.empty(), std::move(options.settings)));
    }
  }
  before.settings = TRY(thaw::keep_settings(settings));
  return supervise(settings, std::move(before), std::move(passed));
}

}  // namespace

int main(int argc, char** argv) {
  thaw::begin_program(thaw::ProgramKind::kServer);
  // Started through a descriptor, it would be called by that.
  thaw::name_process("thaw-faulthandler");
  const auto ended = run(argc, argv);
  if (ended) return thaw::finish_output(*ended);
  thaw::log_error("{}", ended.error().message());
  return thaw::finish_output(thaw::server_exit_code_for(ended.error().code()));
}
