#include "base/host.h"

#include <algorithm>
#include <array>
#include <span>

#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <unistd.h>

#include "base/bytes.h"
#include "base/memory_cgroup.h"

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

ByteCount usable_memory() {
  ByteCount least = physical_memory();
  if (const auto cgroup = MemoryCgroup::of_process(0, CgroupMounts::find())) {
    for (const CgroupMemory& level : cgroup->limited_levels()) least = std::min(least, level.most);
  }
  return least;
}

}  // namespace thaw
