#pragma once

#include <optional>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "format/handoff.h"
#include "format/manifest.h"

namespace thaw {

/// Where each page of a VM's guest memory lies in its VMM's address space: the regions as they were
/// handed over, checked against the snapshot, and moved when the VMM moves them. One thread.
class RegionTable {
 public:
  RegionTable() = default;

  /// kRegionMismatch when there are none, when they are not the snapshot's or do not cover its
  /// memory exactly; kRegionUnaligned; kRegionOverlap for offsets or host addresses that overlap.
  static Result<RegionTable> check(std::vector<HandoffRegion> handoff, const SnapshotSpec& spec);

  /// Those that another process has had checked, and has recorded.
  static RegionTable recorded(std::vector<HandoffRegion> regions) {
    return RegionTable(std::move(regions));
  }

  /// The page at a host address, or nothing outside all regions.
  std::optional<PageIndex> page_at(HostAddress address) const;
  /// The region (or what is left of it in one piece) that holds the page; nullptr when the page is
  /// mapped nowhere any more. Valid until the next move().
  const HandoffRegion* find(PageIndex page) const;
  /// REQUIRES: `region` holds the page.
  static HostAddress address_in(const HandoffRegion& region, PageIndex page) {
    return region.base + (offset_of(page) - region.offset);
  }

  bool has_small_pages_only() const;
  /// Whether the kernel notes what is written to a region: it forgets when the registration ends.
  bool tracks_writes() const;
  const std::vector<HandoffRegion>& regions() const { return regions_; }

  /// Calls `visit(range)` for each range of pages that lies in [start, start + length).
  template <typename Visit>
  void for_each_range(HostAddress start, ByteCount length, Visit visit) const {
    for (const HandoffRegion& region : regions_) {
      if (const auto part = cut(region, start, length)) visit(pages_of(*part));
    }
  }

  /// The VMM has moved [from, from + length) to `to` (mremap), over whatever was there. Returns the
  /// pages that are mapped nowhere any more.
  std::vector<PageRange> move(HostAddress from, HostAddress to, ByteCount length);
  /// kLimitExceeded when the regions have fallen into more than limits::kMaxRegionPieces.
  Result<void> check_pieces() const;

  /// REQUIRES: `region` is of this table.
  static PageRange pages_of(const HandoffRegion& region) {
    return {page_of(region.offset), pages_for(region.size)};
  }

 private:
  explicit RegionTable(std::vector<HandoffRegion> regions) : regions_(std::move(regions)) {}

  /// The part of a region that lies in [start, start + length).
  static std::optional<HandoffRegion> cut(const HandoffRegion& region, HostAddress start,
                                          ByteCount length);
  /// Takes what lies in [start, start + length) out of the table.
  std::vector<HandoffRegion> take_out(HostAddress start, ByteCount length);

  std::vector<HandoffRegion> regions_;  // by offset
};

}  // namespace thaw
