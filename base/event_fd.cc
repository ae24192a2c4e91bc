#include "base/event_fd.h"

#include <csignal>
#include <cstdint>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/check.h"

namespace thaw {

Result<UniqueFd> create_event_fd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return fail_errno("eventfd");
  return fd;
}

void signal_event_fd(const UniqueFd& fd) {
  // Fails only when the counter is full, and then it is readable anyway.
  const std::uint64_t one = 1;
  if (::write(fd.get(), &one, sizeof(one)) < 0) return;
}

void clear_event_fd(const UniqueFd& fd) {
  std::uint64_t count = 0;
  if (::read(fd.get(), &count, sizeof(count)) < 0) return;  // nothing was signalled
}

namespace {

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  return set;
}

}  // namespace

Result<UniqueFd> take_signals(std::initializer_list<int> signals) {
  const sigset_t set = set_of(signals);
  CHECK(::pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return fail_errno("signalfd");
  return fd;
}

void give_back_signals(std::initializer_list<int> signals) {
  const sigset_t set = set_of(signals);
  CHECK(::pthread_sigmask(SIG_UNBLOCK, &set, nullptr) == 0);
}

int next_signal(const UniqueFd& fd) {
  signalfd_siginfo info{};
  return ::read(fd.get(), &info, sizeof(info)) == sizeof(info) ? static_cast<int>(info.ssi_signo)
                                                               : 0;
}

bool wait_until_readable(const UniqueFd& fd, Deadline deadline) {
  while (true) {
    pollfd request{.fd = fd.get(), .events = POLLIN, .revents = 0};
    if (::poll(&request, 1, deadline.milliseconds_left()) > 0) return true;
    if (deadline.passed()) return false;
  }
}

}  // namespace thaw
