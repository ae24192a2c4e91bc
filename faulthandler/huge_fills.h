#pragma once

#include <array>
#include <cstddef>
#include <deque>

#include "base/clock.h"
#include "base/error.h"
#include "base/mapping.h"
#include "base/types.h"
#include "faulthandler/limits.h"

namespace thaw {

/// 4 KiB pages in a huge page.
inline constexpr PageCount kHugePages{kHugePageBytes / kPageBytes};

/// Huge pages that are being put together from their chunks: hugetlbfs takes them only as a whole.
/// A bounded number at a time; the others wait their turn. One thread.
class HugeFills {
 public:
  struct Fill {
    PageIndex first;
    Clock::time_point since;  // when its fault was read
    std::size_t missing = 0;  // chunks that have not arrived
    Mapping buffer;           // of kHugePageBytes, kept for the next one
    bool active = false;

    MutableByteSpan page(PageIndex index) const {
      return buffer.bytes().subspan((index - first).value * kPageBytes, kPageBytes);
    }
  };

  /// Begins to put one together, in zeroed memory; nullptr when it has to wait, which is noted.
  Result<Fill*> begin(PageIndex first, Clock::time_point since);
  /// The one that holds `page`. nullptr: none is under way.
  Fill* find(PageIndex page);
  void end(Fill& fill) { fill.active = false; }
  /// Begins the next that waited; nullptr when none did, or none can.
  Result<Fill*> begin_next();

  std::array<Fill, limits::kMaxHugeFills>& fills() { return fills_; }
  std::size_t waiting() const { return waiting_.size(); }
  /// A huge page of zeros.
  Result<ByteSpan> zeros();

 private:
  struct Waiting {
    PageIndex first;
    Clock::time_point since;
  };
  std::array<Fill, limits::kMaxHugeFills> fills_;
  std::deque<Waiting> waiting_;  // each huge page at most once
  Mapping zeros_;
};

}  // namespace thaw
