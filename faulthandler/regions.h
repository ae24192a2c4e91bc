#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "format/handoff.h"
#include "format/manifest.h"

namespace thaw {

/// The regions of one VM as they were handed over, checked against the snapshot: where each page
/// of guest memory lies in the VMM's address space. Immutable.
class RegionTable {
 public:
  RegionTable() = default;

  /// kRegionMismatch when there are none, when they are not the snapshot's or do not cover its
  /// memory exactly; kRegionUnaligned; kRegionOverlap for offsets or host addresses that overlap;
  /// kUnsupported for 2 MiB pages.
  static Result<RegionTable> check(std::vector<HandoffRegion> handoff, const SnapshotSpec& spec);

  /// The page at a host address, or nothing outside all regions.
  std::optional<PageIndex> page_at(HostAddress address) const;
  /// REQUIRES: the page is guest memory.
  HostAddress address_of(PageIndex page) const;
  /// Calls `visit` for each span of pages that [start, start + length) covers.
  void for_each_span(HostAddress start, ByteCount length,
                     const std::function<void(PageIndex, PageCount)>& visit) const;

 private:
  explicit RegionTable(std::vector<HandoffRegion> regions) : regions_(std::move(regions)) {}

  std::vector<HandoffRegion> regions_;  // by offset
};

}  // namespace thaw
