#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "format/page_map.h"
#include "format/working_set.h"

namespace thaw {

/// Adds a page to ascending ranges. REQUIRES: it comes after all of them.
void append_page(std::vector<PageRange>& ranges, PageIndex page);

/// A working set made ready for streaming: what its packs hold, and which of its pages are zero.
/// Immutable, shared by threads.
class PrefetchSet {
 public:
  struct Pack {
    std::vector<PackPage> pages;  // ascending
    std::uint32_t bytes = 0;      // as it is sent
    TouchClass when = TouchClass::kFirst;
  };
  struct Zeros {
    std::vector<PageRange> ranges;  // ascending
    TouchClass when = TouchClass::kFirst;
  };

  /// kMalformed when the set does not belong to the snapshot with this page map and memory.
  static Result<PrefetchSet> create(const WorkingSet& set, const PageMap& map, PageCount memory);

  SnapshotId snapshot() const { return snapshot_; }
  std::uint64_t generation() const { return generation_; }
  /// How many of this snapshot's recordings it was made of: none, if it is inherited.
  std::uint8_t recordings() const { return recordings_; }
  std::uint64_t page_count() const { return page_count_; }
  /// In the order in which they are to be brought.
  const std::vector<Pack>& packs() const { return packs_; }
  /// One for each class that has zero pages.
  const std::vector<Zeros>& zeros() const { return zeros_; }
  /// Which pack holds the page.
  std::optional<std::size_t> pack_of(PageIndex page) const;

 private:
  struct Place {
    PageIndex page;
    std::uint32_t pack;
  };

  SnapshotId snapshot_;
  std::uint64_t generation_ = 0;
  std::uint8_t recordings_ = 0;
  std::uint64_t page_count_ = 0;
  std::vector<Pack> packs_;
  std::vector<Zeros> zeros_;
  std::vector<Place> places_;  // by page
};

}  // namespace thaw
