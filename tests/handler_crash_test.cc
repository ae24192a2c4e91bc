// The process that serves dies, at any moment, and the guests go on: with real programs and a real
// kernel. Every guest compares every byte that it reads.

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>

#include <nlohmann/json.hpp>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/descriptor_store.h"
#include "base/event_fd.h"
#include "base/socket.h"
#include "format/control_channel.h"
#include "tests/support/http_client.h"
#include "tests/support/loopback.h"
#include "tests/support/notify_socket.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

void pause_for(std::chrono::microseconds time) { std::this_thread::sleep_for(time); }

class HandlerCrashTest : public RestoreTest {
 protected:
  std::vector<std::string> handler_command(const std::string& program) const {
    std::vector<std::string> command{program,      "--control", path("control"),
                                     "--insecure", "--server",  server_.address()};
    if (GetParam() == LoopKind::kEpoll) {
      command.insert(command.begin(), program_path("without_io_uring"));
    }
    return command;
  }
  void start_handler_as(const std::string& program,
                        std::vector<EnvironmentVariable> environment = {}) {
    handler_.reset();
    handler_ = std::make_unique<Program>(
        handler_command(program),
        Surroundings{.cpus = {}, .messages = {}, .environment = std::move(environment)});
    ASSERT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
  }
  /// Kills the process that serves, if there is one at the moment.
  void kill_worker() {
    const pid_t worker = handler_->worker();
    if (worker > 0) ::kill(worker, SIGKILL);
  }
  /// The same, and waits until another one answers.
  void replace_worker() {
    const pid_t before = handler_->worker();
    kill_worker();
    wait_for_another_worker(before);
  }
  void wait_for_another_worker(pid_t before) {
    const Deadline deadline = Deadline::after(kPatience);
    while ((handler_->worker() == before || handler_->worker() == 0 ||
            control({"ps"}).exit_code != 0) &&
           !deadline.passed()) {
    }
  }
  /// Kills it again and again, a little later each time, until the VMM has exited; returns its
  /// exit status.
  int run_among_crashes(Program& vmm, std::chrono::microseconds apart) {
    std::optional<int> status;
    std::jthread waiting([&] { status = vmm.wait().value_or(-1); });
    std::jthread killing([&](const std::stop_token& stop) {
      for (unsigned i = 1; !stop.stop_requested() && i < kMostCrashes; ++i) {
        pause_for(apart + std::chrono::microseconds(137 * i));
        kill_worker();
      }
    });
    waiting.join();
    killing.request_stop();
    killing.join();
    return *status;
  }
  /// For each time between two deaths a VM that does `what`, to its good end.
  void restore_among_crashes(const std::string& what, std::initializer_list<unsigned> apart_us,
                             const std::vector<std::string>& options = {}) {
    for (const unsigned apart : apart_us) {
      SCOPED_TRACE(apart);
      prepare(options);
      Program vmm({program_path("vmm"), path("vm"), path("image"), what});
      EXPECT_EQ(run_among_crashes(vmm, std::chrono::microseconds(apart)), 0);
      replace_worker();
    }
  }
  static constexpr unsigned kMostCrashes = 40;
};

TEST_P(HandlerCrashTest, GuestGoesOnWhereverItsHandlerDies) {
  restore_among_crashes("verify", {1'000, 3'000, 7'000, 20'000});
}

TEST_P(HandlerCrashTest, PagesThatWereGivenBackStayZero) {
  restore_among_crashes("remove", {1'000, 5'000, 15'000});
}

TEST_P(HandlerCrashTest, VmThatComesWhileNobodyServesIsTakenIn) {
  const std::uint64_t number = prepare();
  kill_worker();
  Program vmm = start_vmm("verify");
  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_EQ(wait_for_state(number, "ended")["faults"]["fetched"] > 0, true);
}

TEST_P(HandlerCrashTest, NeitherPageServerNorLuckIsNeededToGoOn) {
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  server_.kill();
  replace_worker();
  EXPECT_EQ(session(number)["state"], "serving");
  EXPECT_GE(session(number)["present_pages"], kPages / 4);
  wait_for(number, [](const Json& report) {
    return report["handler_deaths"] == 1 && report["unserved_us"] > 0;
  });
  vmm.tell("go on");
  server_.start();
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(HandlerCrashTest, OperatorsAreAnsweredByTheOneThatServes) {
  const std::string http = free_address();
  start_handler(server_.address(), {"--http", http});
  prepare();
  Program vmm = start_half();
  replace_worker();
  std::string metrics;
  const auto shows = [&](const std::string& text) {
    return metrics.find(text) != std::string::npos;
  };
  const Deadline deadline = Deadline::after(kPatience);
  while (!shows("sessions{state=\"serving\"} 1\n") || shows("unserved_seconds_total 0\n")) {
    ASSERT_FALSE(deadline.passed()) << metrics;
    metrics = http_get(http, "/metrics");
  }
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
}

/// Where the port that operators see cannot be had, the first start says so, and VMs that are there
/// are served all the same.
TEST_P(HandlerCrashTest, OperatorsComeAfterVms) {
  const std::string http = free_address();
  start_handler(server_.address(), {"--http", http});
  prepare();
  Program vmm = start_half();
  handler_->signal(SIGSTOP);  // so that the next one begins when the port is taken
  kill_worker();
  std::optional<UniqueFd> taken;
  const Deadline deadline = Deadline::after(kPatience);
  while (!taken && !deadline.passed()) {
    if (auto listener = listen_tcp(resolve_tcp(http).value())) taken = *std::move(listener);
  }
  ASSERT_TRUE(taken.has_value());
  handler_->signal(SIGCONT);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  const Outcome refused = run({program_path("thaw-faulthandler"), "--control", path("other"),
                               "--insecure", "--server", server_.address(), "--http", http});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_FALSE(std::filesystem::exists(path("other")));
  taken.reset();
  while (http_get(http, "/healthz").find(" 200 OK") == std::string::npos) {
    ASSERT_FALSE(deadline.passed());
  }
}

TEST_P(HandlerCrashTest, ManyVmsGoOn) {
  constexpr std::size_t kVms = 12;
  std::vector<Program> vmms;
  for (std::size_t i = 0; i < kVms; ++i) {
    const std::string socket = "vm" + std::to_string(i);
    // However long it takes until there is a handler that is not killed at once.
    prepare({"--on-unservable", "wait"}, socket);
    vmms.push_back(Program(
        {program_path("vmm"), path(socket), path("image"), i % 3 == 0 ? "remove" : "verify"}));
  }
  std::jthread killing([&](const std::stop_token& stop) {
    // Where programs start slowly one comes to serve at last, too.
    const std::chrono::milliseconds kStep{kSanitized ? 100 : 10};
    for (unsigned i = 3; !stop.stop_requested(); ++i) {
      pause_for(kStep * i);
      kill_worker();
    }
  });
  for (Program& vmm : vmms) EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(HandlerCrashTest, VmsOnAHostImageGoOn) {
  for (const char* const mode : {"shared-verify", "shared-scribble"}) {
    SCOPED_TRACE(mode);
    prepare({"--shared"});
    prepare({"--shared"}, "vm2");
    Program first({program_path("vmm"), path("vm"), path("image"), mode});
    Program second({program_path("vmm"), path("vm2"), path("image"), mode});
    EXPECT_EQ(run_among_crashes(first, std::chrono::milliseconds(4)), 0);
    EXPECT_EQ(second.wait().value(), 0);
    replace_worker();
  }
}

TEST_P(HandlerCrashTest, RestoreWithPrefetchGoesOn) {
  prepare();  // records
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for(1, [](const Json& report) { return report["recording"] == "stored"; });
  restore_among_crashes("verify", {500, 2'000, 6'000}, {"--hydrate-mib-s", "100"});
}

TEST_P(HandlerCrashTest, VmThatNeedsNobodyStaysSo) {
  const std::uint64_t number = prepare({"--no-record", "--hydrate-mib-s", "1024"});
  Program vmm = start_vmm("hold");
  wait_for_state(number, "detached");
  replace_worker();
  EXPECT_EQ(session(number)["state"], "detached");
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  wait_for_state(number, "ended");
}

TEST_P(HandlerCrashTest, HandlerThatStandsStillIsReplaced) {
  prepare();
  Program vmm = start_half();
  const pid_t stopped = handler_->worker();
  ::kill(stopped, SIGSTOP);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_NE(handler_->worker(), stopped);
}

TEST_P(HandlerCrashTest, VmOnWhoseMemoryHandlersStandStillIsSetAside) {
  start_handler_as(
      program_path("thaw-faulthandler"),
      {{"LD_PRELOAD", program_path("blocking-read.so")}, {"BLOCKING_READ_WHILE", path("blocks")}});
  prepare();
  std::ofstream(path("blocks")) << "as long as this is there";
  EXPECT_EQ(start_vmm("verify").wait().value(), 128 + SIGKILL);
  std::filesystem::remove(path("blocks"));
  prepare({}, "another");
  EXPECT_EQ(start_vmm("verify", "image", "another").wait().value(), 0);
}

/// A VM in a copy to whose memory the handler hangs: as long as hang() says, on a thread of its
/// own.
class SlowVmTest : public HandlerCrashTest {
 protected:
  SlowVmTest() {
    Bytes image = image_;
    const ByteSpan mark = as_bytes(std::string_view("slow"));
    for (std::size_t at = 0; at < image.size(); at += kPageBytes) {
      std::ranges::copy(mark, image.begin() + static_cast<std::ptrdiff_t>(at));
    }
    write_file(path("slow image"), image);
    EXPECT_EQ(push("slow", "slow image").exit_code, 0);
    start_handler_as(
        program_path("thaw-faulthandler"),
        {{"LD_PRELOAD", program_path("slow-calls.so")}, {"SLOW_CALLS_WHILE", path("hangs")}});
    number_ = prepare({}, "slow", "slow");
    vm_.emplace(start_vmm("verify-when-told", "slow image", "slow"));
  }
  /// The first call is the loop's, so that a new handler has to come and know better.
  void hang() {
    const pid_t before = handler_->worker();
    std::ofstream(path("hangs")) << "as long as this is there";
    vm_->tell("go on");
    wait_for_another_worker(before);
  }
  void go_on() { std::filesystem::remove(path("hangs")); }
  void expect_another_is_served() {
    prepare({"--no-record"});
    EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  }

  std::uint64_t number_ = 0;
  std::optional<Program> vm_;
};

INSTANTIATE_TEST_SUITE_P(Loops, SlowVmTest, both_loops(), loop_name);

TEST_P(SlowVmTest, KeepsNoOtherWaitingAndIsServedRight) {
  hang();
  expect_another_is_served();
  EXPECT_TRUE(session(number_)["slow_memory"]);
  replace_worker();
  expect_another_is_served();
  go_on();
  EXPECT_EQ(vm_->wait().value(), 0);
  wait_for_state(number_, "ended");
}

TEST_P(SlowVmTest, MayEndInTheMidstOfACall) {
  hang();
  expect_another_is_served();
  vm_->signal(SIGKILL);
  EXPECT_EQ(vm_->wait().value(), 128 + SIGKILL);
  wait_for_state(number_, "ended");
  expect_another_is_served();
  go_on();
  handler_->signal(SIGTERM);
  EXPECT_EQ(handler_->wait().value(), 0);
}

TEST_P(HandlerCrashTest, NumbersAreNotGivenTwice) {
  const std::uint64_t first = prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for_state(first, "ended");
  replace_worker();
  EXPECT_GT(prepare(), first);
}

TEST_P(HandlerCrashTest, WithoutItsSupervisorItServesToTheEnd) {
  prepare();
  Program vmm = start_half();
  const UniqueFd worker(static_cast<int>(::syscall(SYS_pidfd_open, handler_->worker(), 0)));
  handler_->signal(SIGKILL);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_TRUE(succeeded(wait_for_exit(worker, Deadline::after(kPatience))));
}

TEST_P(HandlerCrashTest, ProgramIsReplacedUnderRunningVms) {
  const std::string program = path("thaw-faulthandler");
  std::filesystem::copy_file(program_path("thaw-faulthandler"), program);
  start_handler_as(program);
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  std::filesystem::copy_file(program, path("new"));
  std::filesystem::rename(path("new"), program);

  const Outcome upgraded = run({program, "--control", path("control"), "--upgrade"});
  EXPECT_EQ(upgraded.exit_code, 0);
  EXPECT_NE(upgraded.output.find("1 sessions go on"), std::string::npos) << upgraded.output;
  for (const pid_t process : {handler_->pid(), handler_->worker()}) {
    EXPECT_EQ(std::filesystem::read_symlink("/proc/" + std::to_string(process) + "/exe"), program);
  }
  EXPECT_EQ(session(number)["state"], "serving");
  EXPECT_EQ(session(number)["handler_deaths"], 0);
  EXPECT_GT(session(number)["unserved_us"], 0);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  handler_->signal(SIGTERM);
  EXPECT_EQ(handler_->wait().value(), 0);
}

/// A fault handler of its own program and configuration file, with a VM that has read half.
class UpgradeTest : public HandlerCrashTest {
 protected:
  void start_own() {
    std::filesystem::copy_file(program_path("thaw-faulthandler"), program_);
    configure("");
    handler_.reset();
    std::vector<std::string> command{program_, "--config", path("thaw.toml")};
    if (GetParam() == LoopKind::kEpoll) {
      command.insert(command.begin(), program_path("without_io_uring"));
    }
    handler_ = std::make_unique<Program>(command);
    ASSERT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
    number_ = prepare();
    vmm_.emplace(start_half());
  }
  void configure(const std::string& more) {
    write(path("thaw.toml"), fmt::format("control = \"{}\"\ninsecure = true\nserver = \"{}\"\n{}",
                                         path("control"), server_.address(), more));
  }
  static void write(const std::string& file, const std::string& text) {
    std::ofstream(file, std::ios::binary) << text;
  }
  /// Puts another program where this one is installed.
  void install(const std::string& script) {
    std::filesystem::remove(program_);
    write(program_, script);
    std::filesystem::permissions(program_, std::filesystem::perms::owner_all);
  }
  Outcome upgrade() {
    return run({"sh", "-c", "exec \"$0\" \"$@\" 2>&1", program_path("thaw-faulthandler"),
                "--control", path("control"), "--upgrade"});
  }
  void go_on_to_the_end() {
    vmm_->tell("go on");
    EXPECT_EQ(vmm_->wait().value(), 0);
  }

  /// The process that doors are forked of ends by itself.
  static bool makes_doors(pid_t process) {
    std::ifstream comm(fmt::format("/proc/{}/comm", process));
    std::string name;
    return std::getline(comm, name) && name == "thaw-door";
  }
  /// Supervisors and handlers whose parents have died, and which this process has by now.
  std::vector<pid_t> orphans() const {
    std::ifstream children(fmt::format("/proc/self/task/{}/children", ::getpid()));
    std::vector<pid_t> found;
    for (pid_t child = 0; children >> child;) {
      const bool known = child == handler_->pid() || child == server_.pid();
      if (!known && !makes_doors(child)) found.push_back(child);
    }
    return found;
  }
  /// It is the supervisor now, and this process its parent.
  void stop_guard() {
    wait_for_state(number_, "ended");
    const std::vector<pid_t> found = orphans();
    ASSERT_EQ(found.size(), 1u);
    ::kill(found.front(), SIGTERM);
    int status = -1;
    EXPECT_EQ(::waitpid(found.front(), &status, 0), found.front());
    EXPECT_EQ(status, 0);
    EXPECT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0), 0);
  }
  /// Handlers and guards that go on without the process that has started them.
  void end_children() const {
    for (std::vector<pid_t> found = orphans(); !found.empty(); found = orphans()) {
      for (const pid_t process : found) {
        ::kill(process, SIGKILL);
        ::waitpid(process, nullptr, 0);
      }
    }
  }
  static void wait_for_text(const std::string& file, const std::string& text) {
    const Deadline deadline = Deadline::after(kPatience);
    std::string read;
    while (read.find(text) == std::string::npos && !deadline.passed()) {
      pause_for(std::chrono::microseconds(200));
      std::ifstream stream(file);
      read.assign(std::istreambuf_iterator<char>(stream), {});
    }
    EXPECT_NE(read.find(text), std::string::npos) << read;
  }

  const std::string program_ = path("thaw-faulthandler");
  std::uint64_t number_ = 0;
  std::optional<Program> vmm_;
};

TEST_P(UpgradeTest, ProgramThatCouldNotServeChangesNothing) {
  start_own();
  const pid_t worker = handler_->worker();
  const auto expect_refusal = [&](const std::string& words) {
    const Outcome refused = upgrade();
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_NE(refused.output.find(words), std::string::npos) << refused.output;
    EXPECT_EQ(handler_->worker(), worker);
    EXPECT_EQ(session(number_)["handler_deaths"], 0);
  };
  configure("around = \"lots");
  expect_refusal("thaw.toml");
  configure(
      "tls-cert = \"/nonexistent/cert\"\ntls-key = \"/nonexistent/key\"\n"
      "tls-ca = \"/nonexistent/ca\"");
  expect_refusal("/nonexistent/cert");
  configure("placement = \"nowhere\"");
  expect_refusal("nowhere");
  configure("log-file = \"/nonexistent/log\"");
  expect_refusal("/nonexistent/log");
  const std::string other = free_address();
  const UniqueFd used = listen_tcp(resolve_tcp(other).value()).value();
  configure(fmt::format("http = \"{}\"", other));
  expect_refusal(other);
  configure("");
  install("#!/bin/sh\nexit 0\n");
  expect_refusal("exited with code 0 before it could serve");
  install("#!/bin/sh\necho libmissing.so is not there >&2\nexit 127\n");
  expect_refusal("libmissing.so is not there");
  install("nonsense");
  expect_refusal("start ");
  std::filesystem::permissions(program_, std::filesystem::perms::owner_read);
  expect_refusal("start ");
  std::filesystem::remove(program_);
  expect_refusal("start ");

  go_on_to_the_end();
}

TEST_P(UpgradeTest, ConnectionsThatSayNothingDoNotHoldItUp) {
  start_own();
  prepare({"--no-record"}, "other");
  const auto connect = [this] {
    return connect_unix(path("other"), Deadline::after(std::chrono::milliseconds(100)));
  };
  auto first = connect();
  ASSERT_TRUE(succeeded(first));
  std::jthread visitor([&connect](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const auto connection = connect();
      pause_for(std::chrono::milliseconds(200));
    }
  });

  const Outcome upgraded = upgrade();

  EXPECT_EQ(upgraded.exit_code, 0) << upgraded.output;
  go_on_to_the_end();
}

/// It passes the proof and ends as soon as it is the supervisor: the guard goes on.
TEST_P(UpgradeTest, ProgramThatEndsAtOnceIsReplacedByTheOneBefore) {
  start_own();
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
  install(
      fmt::format("#!/bin/sh\n"
                  "for last; do :; done\n"
                  "[ \"$last\" = --prove ] || exit 3\n"
                  "exec {} \"$@\"\n",
                  program_path("thaw-faulthandler")));

  const Outcome refused = upgrade();
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.output.find("ended before it served"), std::string::npos) << refused.output;
  EXPECT_EQ(handler_->wait().value(), 3);
  go_on_to_the_end();

  stop_guard();
}

/// Its supervisor runs, and no handler in its process, neither of its own nor of the program
/// before: the guard goes on, before a VM would be given up.
TEST_P(UpgradeTest, ProgramWhoseHandlersFailIsReplacedByTheOneBefore) {
  start_own();
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
  install(
      fmt::format("#!/bin/sh\n"
                  "for last; do :; done\n"
                  "[ \"$last\" = --prove ] || ulimit -S -v 60000\n"
                  "exec {} \"$@\"\n",
                  program_path("thaw-faulthandler")));

  const Outcome refused = upgrade();
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.output.find("not upgraded"), std::string::npos) << refused.output;
  EXPECT_EQ(session(number_)["state"], "serving");
  go_on_to_the_end();
  stop_guard();
}

/// Wherever the supervisor dies in the midst of an upgrade, its handler or the guard serves.
TEST_P(UpgradeTest, SupervisorMayDieAtAnyMomentOfIt) {
  start_own();
  handler_.reset();
  vmm_->signal(SIGKILL);
  static_cast<void>(vmm_->wait());
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
  for (const unsigned after_us : {0u, 2'000u, 5'000u, 10'000u, 20'000u, 40'000u}) {
    SCOPED_TRACE(after_us);
    std::filesystem::remove(path("control"));
    std::filesystem::remove(path("vm"));
    handler_ = std::make_unique<Program>(std::vector<std::string>{
        program_, "--config", path("thaw.toml"), "--log-file", path("log")});
    ASSERT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
    std::filesystem::remove(path("log"));
    handler_->signal(SIGHUP);
    number_ = prepare();
    vmm_.emplace(start_half());
    ASSERT_TRUE(succeeded(ask_fault_handler(path("control"), control::Upgrade{})));
    wait_for_text(path("log"), "upgrade: becoming ");
    pause_for(std::chrono::microseconds(after_us));
    ::kill(handler_->pid(), SIGKILL);
    EXPECT_EQ(handler_->wait().value(), 128 + SIGKILL);
    go_on_to_the_end();
    end_children();
  }
  EXPECT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0), 0);
}

TEST_P(UpgradeTest, HandlerThatFollowsNeedsNothingFromOutside) {
  start_own();
  configure("around = \"lots");
  std::filesystem::remove(program_);

  replace_worker();

  EXPECT_EQ(session(number_)["state"], "serving");
  go_on_to_the_end();
}

INSTANTIATE_TEST_SUITE_P(Loops, UpgradeTest, both_loops(), loop_name);

/// What a service manager does with the messages of a service, on a thread of its own.
class DescriptorStore {
 public:
  explicit DescriptorStore(const std::string& path) : manager_(path) {}
  /// Takes what was said last, and listens no more.
  void close() {
    listening_.request_stop();
    listening_.join();
    update();
  }
  bool ready() const { return ready_; }
  std::vector<NamedDescriptor> take_all() {
    std::vector<NamedDescriptor> all;
    for (auto& [name, descriptor] : kept_) all.push_back({name, std::move(descriptor)});
    return all;
  }
  std::size_t size() const { return kept_.size(); }

 private:
  void update() {
    std::array<std::byte, 4096> text;
    while (true) {
      auto received = receive_with_descriptors(manager_.socket(), text).value();
      if (!received) return;
      take(std::string(as_text(ByteSpan(text).first(received->bytes))),
           std::move(received->descriptors));
    }
  }
  void take(const std::string& text, std::vector<UniqueFd> descriptors) {
    if (text.starts_with("READY=1")) ready_ = true;
    const std::size_t at = text.find("FDNAME=");
    if (at == std::string::npos) return;
    const std::string name = text.substr(at + 7, text.find('\n', at) - at - 7);
    if (text.starts_with("FDSTOREREMOVE=1")) kept_.erase(name);
    if (text.starts_with("FDSTORE=1")) kept_[name] = std::move(descriptors.at(0));
  }

  NotifySocket manager_;
  bool ready_ = false;
  std::map<std::string, UniqueFd> kept_;
  std::jthread listening_{[this](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      if (wait_until_readable(manager_.socket(), Deadline::after(std::chrono::milliseconds(20))))
        update();
    }
  }};
};

TEST_P(HandlerCrashTest, ServiceManagerHasWhatIsNeededWhenBothProcessesDie) {
  DescriptorStore store(path("notify"));
  start_handler_as(program_path("thaw-faulthandler"), {{"NOTIFY_SOCKET", path("notify")}});
  const std::uint64_t ended = prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for_state(ended, "ended");
  const std::uint64_t number = prepare();
  const std::uint64_t waiting = prepare({}, "vm2");
  Program vmm = start_half();
  handler_.reset();
  store.close();
  EXPECT_TRUE(store.ready());
  EXPECT_EQ(store.size(), 1u + 1u + 7u + 5u)
      << "the control socket, the settings, a VM, and one that has not come";

  const pid_t restarted = ::fork();
  if (restarted == 0) {
    auto kept = store.take_all();
    static_cast<void>(
        become_with(handler_command(program_path("thaw-faulthandler")), std::move(kept)));
    ::_exit(1);
  }
  static_cast<void>(store.take_all());
  wait_for_state(number, "serving");
  wait_for_state(waiting, "prepared");
  EXPECT_EQ(start_vmm("verify", "image", "vm2").wait().value(), 0);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  ::kill(restarted, SIGTERM);
  int status = 0;
  EXPECT_EQ(::waitpid(restarted, &status, 0), restarted);
  EXPECT_EQ(status, 0);
}

TEST_P(HandlerCrashTest, StoppedBetweenTwoHandlersEndsAll) {
  kill_worker();
  handler_->signal(SIGTERM);
  EXPECT_EQ(handler_->wait().value(), 0);
}

INSTANTIATE_TEST_SUITE_P(Loops, HandlerCrashTest, both_loops(), loop_name);

}  // namespace
}  // namespace thaw::test
