#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/input.h"

// The planted bug: a fuzzing run that is alive finds these four bytes within seconds.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size >= 4 && thaw::load_le<std::uint32_t>(thaw::fuzz::as_input(data, size).data()) ==
                       0x57'41'48'54) {  // "THAW"
    std::fputs("canary: found the planted bug\n", stderr);
    std::abort();
  }
  return 0;
}
