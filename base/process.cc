#include "base/process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/limits.h"
#include "base/socket.h"

namespace thaw {

namespace {

/// Pointers to the words and a null, as exec takes them. It does not write to them.
std::vector<char*> pointers_to(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

/// Our environment as NAME=VALUE with these put in.
std::vector<std::string> environment_with(const std::vector<EnvironmentVariable>& additions) {
  std::vector<std::string> variables;
  for (char** inherited = environ; *inherited != nullptr; ++inherited) {
    const std::string_view name =
        std::string_view(*inherited).substr(0, std::string_view(*inherited).find('='));
    if (std::ranges::find(additions, name, &EnvironmentVariable::name) == additions.end()) {
      variables.emplace_back(*inherited);
    }
  }
  for (const auto& [name, value] : additions)
    variables.push_back(fmt::format("{}={}", name, value));
  return variables;
}

/// What a child does between fork and exec. Its calls fail only without memory.
class SpawnPlan {
 public:
  explicit SpawnPlan(const ChildProcess::Plan& plan) {
    sigset_t none;
    sigemptyset(&none);
    bool ok = ::posix_spawn_file_actions_init(&actions_) == 0;
    ok &= ::posix_spawnattr_init(&attributes_) == 0;
    ok &= ::posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0) == 0;
    if (plan.messages != nullptr) {
      ok &= ::posix_spawn_file_actions_adddup2(&actions_, plan.messages->get(), 2) == 0;
    }
    ok &= ::posix_spawn_file_actions_adddup2(&actions_, 2, 1) == 0;
    if (plan.passed != nullptr) {
      // Where the number is the same already, this takes close-on-exec off it.
      ok &= ::posix_spawn_file_actions_adddup2(&actions_, plan.passed->get(),
                                               ChildProcess::kChildDescriptor) == 0;
    }
    ok &= ::posix_spawnattr_setpgroup(&attributes_, 0) == 0;
    ok &= ::posix_spawnattr_setsigmask(&attributes_, &none) == 0;
    // What begin_program() has ignored of every program.
    sigset_t restored;
    sigemptyset(&restored);
    sigaddset(&restored, SIGPIPE);
    sigaddset(&restored, SIGXFSZ);
    ok &= ::posix_spawnattr_setsigdefault(&attributes_, &restored) == 0;
    ok &= ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                                       POSIX_SPAWN_SETSIGDEF) == 0;
    CHECK(ok);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  ~SpawnPlan() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }

  const posix_spawn_file_actions_t* actions() const { return &actions_; }
  const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

std::string ExitStatus::text() const {
  if (signal == 0) return fmt::format("exited with code {}", code);
  const char* const name = ::sigabbrev_np(signal);
  return name == nullptr ? fmt::format("was killed by signal {}", signal)
                         : fmt::format("was killed by signal {} (SIG{})", signal, name);
}

Result<ChildProcess> ChildProcess::start(const Plan& plan) {
  CHECK(!plan.command.empty());
  // Where SIGCHLD is ignored, which is inherited, the kernel reaps children itself.
  ::signal(SIGCHLD, SIG_DFL);
  const std::string& file = plan.file.empty() ? plan.command.front() : plan.file;
  const std::vector<std::string> variables = environment_with(plan.environment);
  const SpawnPlan spawn(plan);
  pid_t pid = -1;
  const int error_number =
      ::posix_spawnp(&pid, file.c_str(), spawn.actions(), spawn.attributes(),
                     pointers_to(plan.command).data(), pointers_to(variables).data());
  if (error_number != 0) return fail_errno(fmt::format("start {}", file), error_number);
  ChildProcess child(pid);
  child.pidfd_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!child.pidfd_.valid()) return fail_errno(fmt::format("pidfd_open of process {}", pid));
  return child;
}

Result<std::string> program_beside_this_one(const std::string& name) {
  std::error_code error;
  const auto own = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return fail_errno("read /proc/self/exe", error.value());
  return (own.parent_path() / name).string();
}

std::string own_program() {
  const std::filesystem::path link = "/proc/self/exe";
  std::error_code error;
  const auto path = std::filesystem::read_symlink(link, error);
  const bool there = !error && std::filesystem::equivalent(path, link, error) && !error;
  return there ? path.string() : link.string();
}

Result<std::size_t> descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return fail_errno("getrlimit");
  return static_cast<std::size_t>(limit.rlim_cur);
}

Result<std::size_t> open_descriptors() {
  std::error_code error;
  const std::filesystem::directory_iterator all("/proc/self/fd", error);
  if (error) return fail_errno("read /proc/self/fd", error.value());
  // Without the one that it is read through.
  return static_cast<std::size_t>(std::distance(begin(all), end(all))) - 1;
}

void name_process(const std::string& name) { ::prctl(PR_SET_NAME, name.c_str(), 0, 0, 0); }

Result<void> set_orphan_fate(OrphanFate fate) {
  const long signal = fate == OrphanFate::kIsKilled ? SIGKILL : SIGCONT;
  if (::prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0) return fail_errno("PR_SET_PDEATHSIG");
  return {};
}

Result<void> become(const std::vector<std::string>& command) {
  CHECK(!command.empty());
  return become(command.front(), command);
}

Result<void> become(const std::string& file, const std::vector<std::string>& command) {
  CHECK(!command.empty());
  ::execvp(file.c_str(), pointers_to(command).data());
  return fail_errno(fmt::format("start {}", file));
}

Result<Pipe> create_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno("pipe");
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  // The other end blocks: a program that writes to it need not know that it is a pipe.
  if (::fcntl(pipe.reading.get(), F_SETFL, O_NONBLOCK) != 0) return fail_errno("O_NONBLOCK");
  return pipe;
}

std::string drain_pipe(const UniqueFd& reading, std::size_t most) {
  std::string text(most, '\0');
  std::size_t filled = 0;
  while (filled < most) {
    const ssize_t n = ::read(reading.get(), text.data() + filled, most - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    filled += static_cast<std::size_t>(n);
  }
  text.resize(filled);
  return text;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0) return;
  signal_group(SIGKILL);
  // One that the kernel holds in a system call is left behind.
  if (pidfd_.valid() && !wait_for_exit(pidfd_, Deadline::after(limits::kKilledExit))) return;
  ::waitpid(pid_, nullptr, 0);
}

std::optional<ExitStatus> ChildProcess::status() const {
  siginfo_t info{};
  const int found = ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
  CHECK(found == 0);
  if (info.si_pid == 0) return std::nullopt;
  if (info.si_code == CLD_EXITED) return ExitStatus{.code = info.si_status};
  return ExitStatus{.signal = info.si_status};
}

void ChildProcess::signal_group(int signal) const { ::kill(-pid_, signal); }

Result<void> ChildProcess::pause(Deadline deadline) const {
  ::kill(pid_, SIGSTOP);
  while (true) {
    siginfo_t info{};
    const auto id = static_cast<id_t>(pid_);
    if (::waitid(P_PID, id, &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT) != 0) {
      return fail_errno("waitid");
    }
    if (info.si_pid != 0) return {};
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "process {} does not pause", pid_);
    ::poll(nullptr, 0, 1);
  }
}

}  // namespace thaw
