#include "base/pagemap.h"

#include <algorithm>

#include "base/file.h"

namespace thaw {

namespace {

constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kOfFile = std::uint64_t{1} << 61;
constexpr std::size_t kEntries = 8192;  // read at a time

}  // namespace

Result<std::vector<bool>> own_pages(HostAddress start, ByteCount size) {
  const UniqueFd file = TRY(open_for_reading("/proc/self/pagemap"));
  const std::size_t pages = pages_for(size).value;
  const std::uint64_t first = start.value / kPageBytes;
  std::vector<bool> own(pages);
  std::vector<std::uint64_t> entries(std::min(pages, kEntries));
  for (std::size_t at = 0; at < pages; at += entries.size()) {
    const auto part = std::span(entries).first(std::min(entries.size(), pages - at));
    TRY(read_at(file, std::as_writable_bytes(part), (first + at) * sizeof(std::uint64_t)));
    for (std::size_t i = 0; i < part.size(); ++i) {
      own[at + i] = (part[i] & (kPresent | kSwapped)) != 0 && (part[i] & kOfFile) == 0;
    }
  }
  return own;
}

}  // namespace thaw
