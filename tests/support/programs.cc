#include "tests/support/programs.h"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <sstream>

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/socket.h"
#include "base/types.h"

namespace thaw::test {

namespace {

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};
Pipe make_pipe() {
  int ends[2];
  CHECK(::pipe2(ends, O_CLOEXEC) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// "NAME=value" of our environment, and of what is added in its place.
std::vector<std::string> environment_with(const std::vector<EnvironmentVariable>& added) {
  std::vector<std::string> all;
  for (char** variable = environ; *variable != nullptr; ++variable) all.emplace_back(*variable);
  for (const EnvironmentVariable& variable : added) {
    std::erase_if(all, [&](const auto& one) { return one.starts_with(variable.name + "="); });
    all.push_back(variable.name + "=" + variable.value);
  }
  return all;
}

/// Pointers to the words and a null, as exec takes them. Valid as long as the words.
std::vector<char*> as_arguments(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

/// In the child, before it becomes the program.
void settle(const Surroundings& surroundings) {
  ::signal(SIGPIPE, SIG_DFL);  // as a shell leaves it
  if (!surroundings.cpus.empty()) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (const unsigned cpu : surroundings.cpus) CPU_SET(cpu, &cpus);
    if (::sched_setaffinity(0, sizeof(cpus), &cpus) != 0) ::_exit(126);
  }
  if (surroundings.messages.empty()) return;
  const int file =
      ::open(surroundings.messages.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0 || ::dup2(file, 2) < 0) ::_exit(126);
}

}  // namespace

bool programs_are_sanitized() {
#ifdef THAW_SANITIZED
  return true;
#else
  return false;
#endif
}

std::string program_path(const std::string& name) {
  return std::string(THAW_BINARY_DIR "/") + name;
}

Program::Program(const std::vector<std::string>& command, const Surroundings& surroundings) {
  ::signal(SIGPIPE, SIG_IGN);
  Pipe input = make_pipe();
  Pipe output = make_pipe();
  const std::vector<char*> arguments = as_arguments(command);
  const std::vector<std::string> variables = environment_with(surroundings.environment);
  const std::vector<char*> environment = as_arguments(variables);
  pid_ = ::fork();
  CHECK(pid_ >= 0);
  if (pid_ == 0) {
    ::dup2(input.read.get(), 0);
    ::dup2(output.write.get(), 1);
    settle(surroundings);
    ::execvpe(arguments[0], arguments.data(), environment.data());
    ::_exit(127);
  }
  input_ = std::move(input.write);
  output_ = std::move(output.read);
}

Program::Program(Program&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      input_(std::move(other.input_)),
      output_(std::move(other.output_)),
      buffer_(std::move(other.buffer_)) {}

Program::~Program() {
  if (pid_ < 0) return;
  // Stopped, it starts no other one in between.
  ::kill(pid_, SIGSTOP);
  const pid_t working = worker();
  const UniqueFd pidfd(static_cast<int>(working > 0 ? ::syscall(SYS_pidfd_open, working, 0) : -1));
  if (pidfd.valid()) {
    static_cast<void>(kill_process(pidfd));
    static_cast<void>(wait_for_exit(pidfd, Deadline::after(kPatience)));
  }
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::vector<pid_t> Program::children() const {
  std::ifstream children(fmt::format("/proc/{0}/task/{0}/children", pid_));
  return {std::istream_iterator<pid_t>(children), {}};
}

pid_t Program::worker() const {
  const std::vector<pid_t> all = children();
  return all.empty() ? 0 : all.front();
}

Result<std::string> Program::wait_for_line(const std::string& prefix) {
  const Deadline deadline = Deadline::after(kPatience);
  while (true) {
    for (std::size_t end; (end = buffer_.find('\n')) != std::string::npos;) {
      const std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      if (line.starts_with(prefix)) return line.substr(prefix.size());
    }
    pollfd ready{.fd = output_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, deadline.milliseconds_left()) <= 0) {
      return fail(ErrorCode::kTimeout, "no line \"{}\"", prefix);
    }
    char piece[4096];
    const ssize_t n = ::read(output_.get(), piece, sizeof(piece));
    if (n <= 0) return fail(ErrorCode::kUnavailable, "the program ended without \"{}\"", prefix);
    buffer_.append(piece, static_cast<std::size_t>(n));
  }
}

void Program::tell(const std::string& line) {
  const std::string text = line + "\n";
  CHECK(::write(input_.get(), text.data(), text.size()) >= 0 || errno == EPIPE);
}

void Program::signal(int number) { ::kill(pid_, number); }

Result<int> Program::wait() {
  const Deadline deadline = Deadline::after(kPatience);
  int status = 0;
  while (true) {
    const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
    CHECK(ended >= 0);
    if (ended == pid_) break;
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "process {} does not end", pid_);
    ::poll(nullptr, 0, 2);
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string Program::rest_of_output() {
  char piece[4096];
  for (ssize_t n; (n = ::read(output_.get(), piece, sizeof(piece))) > 0;) {
    buffer_.append(piece, static_cast<std::size_t>(n));
  }
  return std::exchange(buffer_, {});
}

std::vector<std::string> open_descriptors(pid_t pid) {
  std::vector<std::string> targets;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
    std::error_code closed_meanwhile;
    targets.push_back(std::filesystem::read_symlink(entry, closed_meanwhile));
  }
  return targets;
}

std::size_t open_descriptors_down_to(pid_t pid, std::size_t most) {
  const Deadline deadline = Deadline::after(kPatience);
  std::size_t count = open_descriptors(pid).size();
  for (; count > most && !deadline.passed(); count = open_descriptors(pid).size()) {
    ::poll(nullptr, 0, 2);
  }
  return count;
}

std::string stat_fields(const std::string& process) {
  std::ifstream stat("/proc/" + process + "/stat");
  std::string line;
  std::getline(stat, line);
  const std::size_t name_end = line.rfind(") ");
  return name_end == line.npos ? "" : line.substr(name_end + 2);
}

std::chrono::milliseconds cpu_time(pid_t pid) {
  // State, ten numbers, then user and system time.
  std::istringstream fields(stat_fields(std::to_string(pid)));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  long user = 0;
  long system = 0;
  fields >> user >> system;
  return std::chrono::milliseconds((user + system) * 1000 / ::sysconf(_SC_CLK_TCK));
}

std::size_t resident_bytes(pid_t pid) {
  std::ifstream statm("/proc/" + std::to_string(pid) + "/statm");
  std::size_t all = 0;
  std::size_t resident = 0;
  statm >> all >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::optional<std::size_t> peak_resident_bytes(pid_t pid) {
  constexpr std::string_view kName = "VmHWM:";
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(kName)) return std::stoull(line.substr(kName.size())) << 10;
  }
  return {};
}

Outcome run(const std::vector<std::string>& command) {
  Program program(command);
  std::string output = program.rest_of_output();
  return {program.wait().value_or(-1), std::move(output)};
}

PageServer::PageServer(std::string store, std::uint64_t min_free_mib, Surroundings surroundings)
    : store_(std::move(store)),
      min_free_mib_(min_free_mib),
      surroundings_(std::move(surroundings)),
      address_(surroundings_.host.starts_with("unix:") ? surroundings_.host
                                                       : surroundings_.host + ":0") {
  start();
}

void PageServer::start() {
  program_ = std::make_unique<Program>(
      std::vector<std::string>{program_path("thaw-pageserver"), "--insecure", "--store", store_,
                               "--listen", address_, "--min-free-mib",
                               std::to_string(min_free_mib_)},
      surroundings_);
  const auto address = program_->wait_for_line("listening on ");
  CHECK(address.has_value());
  address_ = *address;
}

void PageServer::kill() {
  program_->signal(SIGKILL);
  CHECK(program_->wait().has_value());
}

Result<int> PageServer::stop() {
  program_->signal(SIGTERM);
  return program_->wait();
}

void PageServer::suspend() {
  program_->signal(SIGSTOP);
  CHECK(::waitpid(pid(), nullptr, WUNTRACED) == pid());
}

void PageServer::resume() { program_->signal(SIGCONT); }

Outcome PageServer::thaw(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(),
                   {program_path("thaw"), "--json", "--insecure", "--server", address_});
  return run(arguments);
}

Bytes make_image(std::uint64_t seed, std::size_t pages) {
  std::mt19937_64 generator(seed);
  Bytes image(pages * kPageBytes);
  for (std::size_t i = 0; i < pages; ++i) {
    std::byte* const page = image.data() + i * kPageBytes;
    const std::uint64_t kind = generator() % 10;
    if (kind < 4) continue;
    if (kind == 4 && i > 0) {
      std::memcpy(page, image.data() + (generator() % i) * kPageBytes, kPageBytes);
      continue;
    }
    const std::uint64_t distinct = kind == 5 ? ~std::uint64_t{0} : 0xff;
    for (std::size_t at = 0; at < kPageBytes; at += 8) store_le(page + at, generator() & distinct);
    store_le(page, generator());
  }
  return image;
}

void write_file(const std::string& path, ByteSpan content) {
  std::ofstream(path, std::ios::binary) << as_text(content);
}

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  const ByteSpan bytes = as_bytes(text.view());
  return {bytes.begin(), bytes.end()};
}

}  // namespace thaw::test
