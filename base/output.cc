#include "base/output.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/unique_fd.h"

namespace thaw {

namespace {

/// Keeps SIGPIPE, which write(2) raises where a pipe has no reader, from this thread. A library
/// must not change what the process does on signals.
class WithoutSigpipe {
 public:
  WithoutSigpipe() noexcept {
    sigemptyset(&sigpipe_);
    sigaddset(&sigpipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  WithoutSigpipe(const WithoutSigpipe&) = delete;
  WithoutSigpipe& operator=(const WithoutSigpipe&) = delete;
  ~WithoutSigpipe() {
    constexpr timespec kNow{};
    if (!was_pending_) ::sigtimedwait(&sigpipe_, nullptr, &kNow);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t sigpipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
};

/// How a descriptor is written to without blocking. O_NONBLOCK on the descriptor itself would be
/// set for all processes that share it.
class NonBlockingWriter {
 public:
  explicit NonBlockingWriter(int fd) noexcept : fd_(fd) {
    struct stat status{};
    if (::fstat(fd, &status) != 0 || S_ISREG(status.st_mode)) return;
    is_socket_ = S_ISSOCK(status.st_mode);
    if (is_socket_) return;
    char path[32];
    std::snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const bool writable = (::fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
    if (writable) reopened_ = UniqueFd(::open(path, kFlags));
  }

  ssize_t write(std::string_view text) const noexcept {
    if (is_socket_) return ::send(fd_, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    return ::write(fd(), text.data(), text.size());
  }
  int fd() const noexcept { return reopened_.valid() ? reopened_.get() : fd_; }

 private:
  static constexpr int kFlags = O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

  const int fd_;
  bool is_socket_ = false;
  UniqueFd reopened_;  // another open file description of the same pipe or device
};

}  // namespace

bool write_within(int fd, std::string_view text, Deadline deadline) noexcept {
  const WithoutSigpipe guard;
  const NonBlockingWriter writer(fd);
  while (!text.empty()) {
    // Where the descriptor cannot be opened again, this keeps write() from blocking.
    pollfd ready{.fd = writer.fd(), .events = POLLOUT, .revents = 0};
    const int polled = ::poll(&ready, 1, deadline.milliseconds_left());
    if (polled < 0 && errno != EINTR) return false;
    const ssize_t n = polled > 0 ? writer.write(text) : 0;
    if (n > 0) {
      text.remove_prefix(static_cast<std::size_t>(n));
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
      return false;
    } else if (deadline.passed()) {
      return false;
    }
  }
  return true;
}

void print_text(std::string_view text) {
  // A failure stays noted in stdout.
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stdout));
}

void print_problem(std::string_view text) {
  static_cast<void>(write_within(STDERR_FILENO, text, Deadline::after(limits::kLogPatience)));
}

void announce(std::string_view line) {
  const std::string whole = std::string(line) + "\n";
  static_cast<void>(write_within(STDOUT_FILENO, whole, Deadline::after(limits::kLogPatience)));
}

int finish_output(int exit_code) {
  const bool failed_before = std::ferror(stdout) != 0;
  errno = 0;
  if (std::fflush(stdout) == 0 && !failed_before) return exit_code;
  const Error error = errno == 0 ? Error(ErrorCode::kIo, "stdout could not be written")
                                 : fail_errno("write to stdout").error();
  print_err("{}: {}\n", program_invocation_short_name, error.message());
  return 1;
}

}  // namespace thaw
