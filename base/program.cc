#include "base/program.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <string>

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

namespace thaw {

namespace {

void open_standard_descriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is this one: those before it are open. Children inherit it.
    const int wrong_way = fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;
    if (::open("/dev/null", wrong_way) != fd) std::abort();
  }
}

/// A signal that has a handler (a sanitizer's) keeps it.
void ignore_unless_handled(int number) {
  struct sigaction action{};
  if (::sigaction(number, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return;
  ::signal(number, SIG_IGN);
}

/// What ends a server, cannot be caught, or does nothing unless it is caught.
bool keeps_its_action(int number) {
  switch (number) {
    case SIGTERM:
    case SIGINT:
    case SIGQUIT:
    case SIGKILL:
    case SIGSTOP:
    case SIGCONT:
    case SIGCHLD:
    case SIGURG:
    case SIGWINCH:
      return true;
    default:
      return false;
  }
}

[[noreturn]] void tell_and_abort() noexcept {
  std::string what = "terminated";
  if (const std::exception_ptr current = std::current_exception()) {
    try {
      std::rethrow_exception(current);
    } catch (const std::exception& thrown) {
      what = fmt::format("an exception that nothing catches: {}", thrown.what());
    } catch (...) {
      what = "an exception that nothing catches";
    }
  }
  log_last_words(what);
  std::abort();
}

}  // namespace

void begin_program(ProgramKind kind) {
  open_standard_descriptors();
  ::umask(S_IRWXG | S_IRWXO);
  std::set_terminate(tell_and_abort);
  ignore_unless_handled(SIGPIPE);
  ignore_unless_handled(SIGXFSZ);
  if (kind == ProgramKind::kCommand) return;
  for (int number = 1; number <= SIGRTMAX; ++number) {
    if (!keeps_its_action(number)) ignore_unless_handled(number);
  }
}

}  // namespace thaw
