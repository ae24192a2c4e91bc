/// slow-calls.so, loaded into a program by LD_PRELOAD: as long as the file SLOW_CALLS_WHILE is
/// there, a UFFDIO_COPY of content that begins with "slow" does not return. Its thread sleeps in a
/// system call whose first argument is the userfaultfd's number, as the copy's would be.

#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr timespec kLookAgain{.tv_sec = 0, .tv_nsec = 1'000'000};

bool is_slow(unsigned long request, const void* argument) {
  if (request != UFFDIO_COPY) return false;
  uffdio_copy copy{};
  std::memcpy(&copy, argument, sizeof(copy));
  return std::memcmp(reinterpret_cast<const void*>(copy.src), "slow", 4) == 0;
}

}  // namespace

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  const char* const while_there = std::getenv("SLOW_CALLS_WHILE");
  while (while_there != nullptr && is_slow(request, argument) && ::access(while_there, F_OK) == 0) {
    timespec time = kLookAgain;  // the kernel may write what is left of it
    ::syscall(SYS_pselect6, fd, nullptr, nullptr, nullptr, &time, nullptr);
  }
  return static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
}
