#include "base/pagemap.h"

#include <algorithm>
#include <array>

#include <sys/ioctl.h>

#include "base/file.h"
#include "base/pagemap_abi.h"

namespace thaw {

namespace {

constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kOfFile = std::uint64_t{1} << 61;
constexpr std::size_t kEntries = 8192;  // read at a time
constexpr std::size_t kRanges = 512;    // told by one call

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

Result<std::vector<bool>> written_pages(HostAddress start, ByteCount size) {
  const UniqueFd file = TRY(open_for_reading("/proc/self/pagemap"));
  std::vector<bool> written(pages_for(size).value);
  std::array<abi::PageRegion, kRanges> found;
  // A page of zeros that was filled in has no mark of its own, and nor has a missing page.
  abi::PagemapScan scan{.size = sizeof(scan),
                        .flags = abi::kScanCheckTracked,
                        .start = start.value,
                        .end = (start + size).value,
                        .walk_end = start.value,
                        // SAFETY: an address as a number, of an array that outlives the calls.
                        .ranges = reinterpret_cast<std::uint64_t>(found.data()),
                        .range_count = found.size(),
                        .most_pages = 0,
                        .inverted = abi::kPageIsZeroFrame,
                        .all_of = abi::kPageIsWritten | abi::kPageIsZeroFrame,
                        .any_of = abi::kPageIsPresent | abi::kPageIsSwapped,
                        .reported = abi::kPageIsWritten};
  for (; scan.start < scan.end; scan.start = scan.walk_end) {
    // SAFETY: scan and the array it names are live for the call.
    const int count = ::ioctl(file.get(), abi::kPagemapScan, &scan);
    if (count < 0) return fail_errno("PAGEMAP_SCAN");
    for (const abi::PageRegion& range : std::span(found).first(static_cast<std::size_t>(count))) {
      const auto first = static_cast<std::ptrdiff_t>((range.start - start.value) / kPageBytes);
      const auto last = static_cast<std::ptrdiff_t>((range.end - start.value) / kPageBytes);
      std::fill(written.begin() + first, written.begin() + last, true);
    }
  }
  return written;
}

}  // namespace thaw
