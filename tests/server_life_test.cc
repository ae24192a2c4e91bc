// What must not end or stop a server that VMs depend on: its log's reader, its descriptors, and
// signals. And what a signal has it read again.

#include <algorithm>
#include <csignal>
#include <filesystem>

#include <fcntl.h>
#include <linux/landlock.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/service_manager.h"
#include "base/socket.h"
#include "tests/support/authority.h"
#include "tests/support/loopback.h"
#include "tests/support/notify_socket.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

/// A pipe with a name, for a program's messages.
class NamedPipe {
 public:
  explicit NamedPipe(std::string path) : path_(std::move(path)) {
    EXPECT_EQ(::mkfifo(path_.c_str(), 0600), 0);
    reader_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  }
  const std::string& path() const { return path_; }
  void fill() const {
    const UniqueFd writer(::open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    const Bytes filler(4096);
    while (::write(writer.get(), filler.data(), filler.size()) > 0) {
    }
  }
  void end() { reader_.reset(); }

 private:
  std::string path_;
  UniqueFd reader_;
};

std::string text_of(const std::string& path) {
  const Bytes content = read_file(path);
  return std::string(as_text(content));
}

/// Waits until a file has the text.
bool appears_in(const std::string& path, const std::string& text) {
  const Deadline deadline = Deadline::after(kPatience);
  while (text_of(path).find(text) == std::string::npos) {
    if (deadline.passed()) return false;
    ::poll(nullptr, 0, 5);
  }
  return true;
}

std::size_t lines_of(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count(text, '\n'));
}

/// The signals that mean nothing to a server.
std::vector<int> meaningless_signals() {
  std::vector<int> numbers;
  for (int number = 1; number <= SIGRTMAX; ++number) {
    const bool is_of_libc = number >= 32 && number < SIGRTMIN;
    const bool is_fault = number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
                          number == SIGILL || number == SIGABRT || number == SIGTRAP;
    const bool has_meaning = number == SIGTERM || number == SIGINT || number == SIGQUIT ||
                             number == SIGKILL || number == SIGSTOP;
    if (!has_meaning && !is_of_libc && !(kSanitized && is_fault)) numbers.push_back(number);
  }
  return numbers;
}

class ServerLifeTest : public RestoreTest {
 protected:
  /// A handler whose messages go there, with other options.
  void start_handler_with(const std::string& messages, const std::vector<std::string>& more = {}) {
    handler_.reset();
    std::vector<std::string> command{program_path("thaw-faulthandler"),
                                     "--control",
                                     path("control"),
                                     "--insecure",
                                     "--server",
                                     server_.address()};
    command.insert(command.end(), more.begin(), more.end());
    Surroundings surroundings;
    surroundings.messages = messages;
    handler_ = std::make_unique<Program>(command, surroundings);
    ASSERT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
  }
  /// Restores a VM from the first page to the last.
  void expect_restore(const std::string& socket) {
    prepare({"--no-record"}, socket);
    Program vmm = start_vmm("verify", "image", socket);
    EXPECT_EQ(vmm.wait().value_or(-1), 0);
  }
  /// Each line of the log counts, and some come of this.
  void expect_handler_serves() {
    for (int i = 0; i < 3; ++i) expect_restore(fmt::format("vm{}", i));
    EXPECT_EQ(control({"ps"}).exit_code, 0);
    handler_->signal(SIGTERM);
    EXPECT_EQ(handler_->wait().value_or(-1), 0);
  }
  void send_garbage(PageServer& server, int times) {
    const TcpAddress address = resolve_tcp(server.address()).value();
    for (int i = 0; i < times; ++i) {
      const UniqueFd peer = connect_tcp(address, Deadline::after(kPatience)).value();
      const std::string garbage(300, static_cast<char>('a' + i % 20));
      EXPECT_TRUE(succeeded(send_all(peer, as_bytes(garbage), Deadline::after(kPatience))));
      Bytes rest(4096);
      for (auto n = receive_some(peer, rest, Deadline::after(kPatience)); n && *n > 0;) {
        n = receive_some(peer, rest, Deadline::after(kPatience));
      }
    }
  }
  void expect_page_server_serves(PageServer& server) {
    send_garbage(server, 3);
    EXPECT_EQ(server.thaw({"ls"}).exit_code, 0);
    EXPECT_EQ(server.stop().value_or(-1), 0);
  }
  PageServer page_server_with(const std::string& messages) {
    Surroundings surroundings;
    surroundings.messages = messages;
    return PageServer(path("other"), 0, surroundings);
  }
};

INSTANTIATE_TEST_SUITE_P(Loops, ServerLifeTest, testing::Values(LoopKind::kUring));

TEST_P(ServerLifeTest, AHandlerOutlivesTheReaderOfItsLog) {
  NamedPipe pipe(path("pipe"));
  start_handler_with(pipe.path());
  pipe.end();

  expect_handler_serves();
}

TEST_P(ServerLifeTest, AHandlerServesWhileTheReaderOfItsLogHasStopped) {
  const NamedPipe pipe(path("pipe"));
  pipe.fill();
  start_handler_with(pipe.path(), {"--verbose"});

  expect_handler_serves();
}

TEST_P(ServerLifeTest, AHandlerServesWhileTheDiskOfItsLogIsFull) {
  start_handler_with("/dev/full");

  expect_handler_serves();
}

TEST_P(ServerLifeTest, AHandlerThatDiesWithoutAReaderIsReplaced) {
  const NamedPipe pipe(path("pipe"));
  pipe.fill();
  start_handler_with(pipe.path());
  const std::uint64_t number = prepare({"--no-record"});
  Program vmm = start_half();
  const pid_t first = handler_->worker();
  ASSERT_EQ(::kill(first, SIGKILL), 0);
  vmm.tell("go on");

  EXPECT_EQ(vmm.wait().value_or(-1), 0);
  EXPECT_EQ(wait_for_state(number, "ended")["state"], "ended");
}

TEST_P(ServerLifeTest, APageServerOutlivesItsLog) {
  NamedPipe dead(path("dead"));
  PageServer first = page_server_with(dead.path());
  dead.end();
  expect_page_server_serves(first);

  const NamedPipe full(path("full"));
  full.fill();
  PageServer second = page_server_with(full.path());
  expect_page_server_serves(second);

  PageServer third = page_server_with("/dev/full");
  expect_page_server_serves(third);
}

TEST_P(ServerLifeTest, ServersWithoutStandardDescriptorsOpenNothingInTheirPlace) {
  handler_.reset();
  const std::vector<std::string> closed{"sh", "-c", R"(exec "$@" <&- >&- 2>&-)", "sh"};
  auto command = closed;
  const std::string address = TcpListener().address.text();  // free again
  command.insert(command.end(), {program_path("thaw-pageserver"), "--store", path("other"),
                                 "--insecure", "--listen", address});
  Program pages(command);
  command = closed;
  command.insert(command.end(), {program_path("thaw-faulthandler"), "--control", path("control"),
                                 "--insecure", "--server", server_.address()});
  handler_ = std::make_unique<Program>(command);

  const Deadline deadline = Deadline::after(kPatience);
  while (control({"ps"}).exit_code != 0 && !deadline.passed()) ::poll(nullptr, 0, 5);
  const auto ls = [&] {
    return run({program_path("thaw"), "--insecure", "--server", address, "ls"}).exit_code;
  };
  while (ls() != 0 && !deadline.passed()) ::poll(nullptr, 0, 5);
  for (const pid_t pid : {pages.pid(), handler_->pid()}) {
    for (const char* const fd : {"0", "1", "2"}) {
      EXPECT_EQ(std::filesystem::read_symlink(fmt::format("/proc/{}/fd/{}", pid, fd)), "/dev/null");
    }
  }
  pages.signal(SIGTERM);
  EXPECT_EQ(pages.wait().value_or(-1), 0);
  expect_handler_serves();
}

TEST_P(ServerLifeTest, AFloodOfBadPeersIsAHandfulOfLines) {
  PageServer server = page_server_with(path("log"));
  send_garbage(server, 300);
  EXPECT_EQ(server.stop().value_or(-1), 0);

  const std::string log = text_of(path("log"));
  EXPECT_LT(lines_of(log), 12u) << log;
  EXPECT_NE(log.find(" more in "), log.npos) << log;
}

TEST_P(ServerLifeTest, NoSignalEndsWhatVmsDependOn) {
  prepare({"--no-record"});
  Program vmm = start_half();
  const pid_t worker = handler_->worker();
  for (const int number : meaningless_signals()) {
    for (const pid_t pid : {handler_->pid(), worker, server_.pid()}) {
      EXPECT_EQ(::kill(pid, number), 0) << number << " to " << pid;
    }
  }
  vmm.tell("go on");

  EXPECT_EQ(vmm.wait().value_or(-1), 0);
  expect_restore("later");
  EXPECT_EQ(handler_->worker(), worker);
  EXPECT_EQ(server_.thaw({"ls"}).exit_code, 0);
  handler_->signal(SIGQUIT);
  EXPECT_EQ(handler_->wait().value_or(-1), 0);
  ASSERT_EQ(::kill(server_.pid(), SIGQUIT), 0);
  EXPECT_EQ(server_.stop().value_or(-1), 0);
}

TEST_P(ServerLifeTest, AHangupHasTheHandlerOpenItsLogAgain) {
  start_handler_with("/dev/null", {"--log-file", path("log")});
  expect_restore("first");
  ASSERT_TRUE(appears_in(path("log"), "thaw-faulthandler info session 1"));
  std::filesystem::rename(path("log"), path("log.1"));
  // The line of the first may still go into the old file.
  const Deadline deadline = Deadline::after(kPatience);
  const auto has_line_of = [&](const std::string& program) {
    return text_of(path("log")).find(program + " info signal 1: reloading") != std::string::npos;
  };
  while (!has_line_of("thaw-supervisor") || !has_line_of("thaw-faulthandler")) {
    ASSERT_FALSE(deadline.passed());
    handler_->signal(SIGHUP);
    ::poll(nullptr, 0, 20);
  }
  expect_restore("second");

  EXPECT_TRUE(appears_in(path("log"), "thaw-faulthandler info session 2"));
}

TEST(Reload, AHangupHasThePageServerReadItsFilesAtOnce) {
  const ScratchDirectory directory;
  const Authority authority;
  const TlsFiles files = authority.issue("server");
  const TlsFiles client = authority.issue("client");
  const std::string policy = directory.path("policy");
  const auto grant = [&](std::string_view role) {
    replace_file(policy, fmt::format("[[peer]]\nidentity = \"thaw://client\"\n"
                                     "namespaces = [\"*\"]\nroles = [\"{}\"]\n",
                                     role));
  };
  grant("read");
  const std::string log = directory.path("log");
  Surroundings surroundings = Surroundings::with({{"THAW_TLS_CERT", files.certificate},
                                                  {"THAW_TLS_KEY", files.key},
                                                  {"THAW_TLS_CA", files.authority},
                                                  {"THAW_POLICY", policy},
                                                  {"THAW_LOG_FILE", log}});
  PageServer server(directory.path("store"), 0, surroundings);
  std::filesystem::rename(log, log + ".1");
  ASSERT_EQ(::kill(server.pid(), SIGHUP), 0);

  // Without a change, without a peer.
  EXPECT_TRUE(appears_in(log, "TLS: read "));
  EXPECT_TRUE(appears_in(log, "read the policy "));
  replace_file(policy, "roles = 7");
  replace_file(files.key, "nothing");
  ASSERT_EQ(::kill(server.pid(), SIGHUP), 0);
  EXPECT_TRUE(appears_in(log, "TLS: the files are no good"));
  EXPECT_TRUE(appears_in(log, "the policy is no good"));
  auto arguments = tls_flags(client);
  arguments.emplace_back("ls");
  EXPECT_EQ(server.thaw(arguments).exit_code, 0);
  EXPECT_EQ(server.stop().value_or(-1), 0);
}

TEST(Reload, PageServerFollowsNoLinkOutOfItsFiles) {
  const long landlock = ::syscall(SYS_landlock_create_ruleset, nullptr, std::size_t{0},
                                  LANDLOCK_CREATE_RULESET_VERSION);
  if (landlock < 2) GTEST_SKIP() << "it keeps all files";
  const ScratchDirectory directory;
  for (const char* const name : {"log", "policy", "others"}) {
    std::filesystem::create_directory(directory.path(name));
  }
  const std::string policy = directory.path("policy/now");
  const std::string log = directory.path("log/now");
  for (const char* const name : {"policy/now", "policy/next", "others/next"}) {
    write_file(directory.path(name), {});
  }
  Surroundings surroundings = Surroundings::with({{"THAW_POLICY", policy}, {"THAW_LOG_FILE", log}});
  surroundings.host = "unix:" + directory.path("run/socket");
  PageServer server(directory.path("store"), 0, surroundings);
  const auto link_policy_to = [&](const char* target) {
    std::filesystem::remove(policy);
    std::filesystem::create_symlink(target, policy);
    EXPECT_EQ(::kill(server.pid(), SIGHUP), 0);
  };
  link_policy_to("../others/next");
  EXPECT_TRUE(appears_in(log, "Permission denied"));
  EXPECT_FALSE(text_of(log).contains("read the policy "));
  link_policy_to("next");
  EXPECT_TRUE(appears_in(log, "read the policy "));
}

TEST(Reload, AHangupHasTheHandlerReadItsCertificateAtOnce) {
  const ScratchDirectory directory;
  const Authority authority;
  const TlsFiles files = authority.issue("handler");
  std::vector<std::string> command{program_path("thaw-faulthandler"),
                                   "--control",
                                   directory.path("control"),
                                   "--insecure",
                                   "--server",
                                   "127.0.0.1:1",
                                   "--log-file",
                                   directory.path("log")};
  const auto flags = tls_flags(files);
  command.insert(command.end(), flags.begin(), flags.end());
  Program handler(command);
  ASSERT_TRUE(succeeded(handler.wait_for_line("ready on ")));
  handler.signal(SIGHUP);

  EXPECT_TRUE(appears_in(directory.path("log"), "TLS: read "));
  handler.signal(SIGTERM);
  EXPECT_EQ(handler.wait().value_or(-1), 0);
}

/// Stops the first thread of a program and lets its other threads run.
class StoppedThread {
 public:
  explicit StoppedThread(pid_t program) : program_(program) {
    int status = 0;
    stopped_ = ::ptrace(PTRACE_SEIZE, program_, nullptr, nullptr) == 0 &&
               ::ptrace(PTRACE_INTERRUPT, program_, nullptr, nullptr) == 0 &&
               ::waitpid(program_, &status, __WALL) == program_ && WIFSTOPPED(status);
  }
  StoppedThread(const StoppedThread&) = delete;
  StoppedThread& operator=(const StoppedThread&) = delete;
  ~StoppedThread() { ::ptrace(PTRACE_DETACH, program_, nullptr, nullptr); }
  bool stopped() const { return stopped_; }

 private:
  const pid_t program_;
  bool stopped_ = false;
};

/// Starts a server under a service manager that watches it, and stops the loop of the server.
void expect_silence_of_a_stopped_loop(std::vector<std::string> command) {
  constexpr int kIntervals = 5;
  const ScratchDirectory directory;
  NotifySocket manager(directory.path("notify"));
  Program server(command, Surroundings::with({{"NOTIFY_SOCKET", directory.path("notify")},
                                              {"WATCHDOG_USEC", "100000"}}));
  EXPECT_TRUE(manager.hears("READY=1"));
  EXPECT_TRUE(manager.hears("WATCHDOG=1"));
  {
    const StoppedThread loop(server.pid());
    if (!loop.stopped()) GTEST_SKIP() << "may not trace a child";
    manager.drain();
    pollfd later{.fd = manager.socket().get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&later, 1, kIntervals * 50), 0) << "a thread beside the loop tells";
  }
  EXPECT_TRUE(manager.hears("WATCHDOG=1"));
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait().value_or(-1), 0);
}

TEST(Watchdog, PageServerWhoseLoopStandsStillIsSilent) {
  const ScratchDirectory directory;
  expect_silence_of_a_stopped_loop({program_path("thaw-pageserver"), "--store",
                                    directory.path("store"), "--insecure", "--listen",
                                    "127.0.0.1:0", "--min-free-mib", "0"});
}

TEST(Watchdog, SupervisorWhoseLoopStandsStillIsSilent) {
  const ScratchDirectory directory;
  expect_silence_of_a_stopped_loop({program_path("thaw-faulthandler"), "--control",
                                    directory.path("control"), "--insecure", "--server",
                                    "127.0.0.1:1"});
}

TEST(Watchdog, OfAnotherProcessIsLeftToThat) {
  const ScratchDirectory directory;
  NotifySocket manager(directory.path("notify"));
  const auto interval = [&](const char* usec, const std::string& process) {
    ::setenv("NOTIFY_SOCKET", directory.path("notify").c_str(), 1);
    ::setenv("WATCHDOG_USEC", usec, 1);
    ::setenv("WATCHDOG_PID", process.c_str(), 1);
    return ServiceManager().alive_interval();
  };
  const std::string own = std::to_string(::getpid());
  EXPECT_EQ(interval("30000000", own), std::chrono::seconds(15));
  EXPECT_EQ(interval("30000000", "1"), std::nullopt);
  for (const char* const usec : {"0", "-1", "", "x", "1x", "99999999999999999999"}) {
    EXPECT_EQ(interval(usec, own), std::nullopt) << usec;
  }
  EXPECT_EQ(interval("9223372036854775807", own), std::chrono::hours(12));
  for (const char* const name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
    ::unsetenv(name);
}

}  // namespace
}  // namespace thaw::test
