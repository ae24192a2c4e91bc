#pragma once

#include <cstdint>

#include <sys/ioctl.h>

namespace thaw::abi {

/// The ioctl PAGEMAP_SCAN of /proc/PID/pagemap, which Debian 12's headers do not have yet: struct
/// pm_scan_arg, struct page_region and PAGE_IS_* of include/uapi/linux/fs.h since Linux 6.7.
struct PageRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};

struct PagemapScan {
  std::uint64_t size;  // of this structure
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;  // set by the kernel: where it stopped
  std::uint64_t ranges;    // address of PageRegion[range_count]
  std::uint64_t range_count;
  std::uint64_t most_pages;  // 0: no limit
  std::uint64_t inverted;    // categories that count where a page is not of them
  std::uint64_t all_of;
  std::uint64_t any_of;
  std::uint64_t reported;
};

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);

/// Fail with EPERM where memory is not registered for asynchronous write-protection.
inline constexpr std::uint64_t kScanCheckTracked = 1 << 1;

inline constexpr std::uint64_t kPageIsWritten = 1 << 1;
inline constexpr std::uint64_t kPageIsPresent = 1 << 3;
inline constexpr std::uint64_t kPageIsSwapped = 1 << 4;
inline constexpr std::uint64_t kPageIsZeroFrame = 1 << 5;

}  // namespace thaw::abi
