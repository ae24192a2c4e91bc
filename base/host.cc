#include "base/host.h"

#include <unistd.h>

#include "base/file.h"

namespace thaw {

std::string cpu_vendor() {
  const auto info = read_text_file("/proc/cpuinfo", std::size_t{16} << 20);
  if (!info) return {};
  const std::size_t line = info->find("vendor_id");
  const std::size_t colon = line == std::string::npos ? line : info->find(": ", line);
  if (colon == std::string::npos) return {};
  return info->substr(colon + 2, info->find('\n', colon) - colon - 2);
}

ByteCount physical_memory() {
  return bytes_of(PageCount{static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES))});
}

}  // namespace thaw
