/// blocking-read.so, loaded into a program by LD_PRELOAD: as long as the file BLOCKING_READ_WHILE
/// is there, a read that shall not wait waits for ever.

#include <cstdlib>

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

extern "C" ssize_t preadv2(int fd, const iovec* to, int count, off_t offset, int flags) {
  const char* const while_there = std::getenv("BLOCKING_READ_WHILE");
  const bool blocks = (flags & RWF_NOWAIT) != 0 && while_there != nullptr;
  while (blocks && ::access(while_there, F_OK) == 0) {
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    ::syscall(SYS_read, fd, to->iov_base, to->iov_len);
  }
  return ::syscall(SYS_preadv2, fd, to, count, offset, 0, flags);
}
