// without_io_uring PROGRAM ARGUMENTS...: runs a program as on a host that forbids io_uring.

#include <cstdio>

#include <unistd.h>

#include "tests/support/seccomp.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: without_io_uring PROGRAM ARGUMENTS...\n", stderr);
    return 2;
  }
  thaw::test::forbid_io_uring();
  ::execv(argv[1], argv + 1);
  std::perror(argv[1]);
  return 127;
}
