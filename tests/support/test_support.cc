#include "tests/support/test_support.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/file.h"

namespace thaw::test {

std::mt19937_64 seeded_generator() {
  const char* const wanted = std::getenv("THAW_TEST_SEED");
  const std::uint64_t seed =
      wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : std::random_device()();
  std::printf("THAW_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return std::mt19937_64(seed);
}

unsigned test_scale() {
  const char* const wanted = std::getenv("THAW_TEST_SCALE");
  return wanted != nullptr ? static_cast<unsigned>(std::strtoul(wanted, nullptr, 10)) : 1;
}

Bytes random_bytes(std::mt19937_64& generator, std::size_t size) {
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator());
  return bytes;
}

bool is_running(pid_t pid) {
  const auto stat = read_text_file("/proc/" + std::to_string(pid) + "/stat", 4096);
  return stat && stat->find(") Z") == stat->npos;
}

}  // namespace thaw::test
