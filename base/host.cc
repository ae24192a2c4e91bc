#include "base/host.h"

#include <array>
#include <span>

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <unistd.h>

#include "base/bytes.h"

namespace thaw {

std::string cpu_vendor() {
#ifdef __x86_64__
  unsigned most = 0;
  std::array<unsigned, 3> words{};
  __cpuid(0, most, words[0], words[2], words[1]);
  return std::string(as_text(std::as_bytes(std::span(words))));
#else
  return {};
#endif
}

ByteCount physical_memory() {
  return bytes_of(PageCount{static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES))});
}

}  // namespace thaw
