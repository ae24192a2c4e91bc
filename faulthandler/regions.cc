#include "faulthandler/regions.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace thaw {

namespace {

Result<void> check_addresses(std::vector<HandoffRegion> regions) {
  std::ranges::sort(regions, {}, [](const HandoffRegion& region) { return region.base; });
  HostAddress end{0};
  for (const HandoffRegion& region : regions) {
    if (region.base.value % region.page_size.value != 0) {
      return fail(ErrorCode::kRegionUnaligned, "host address {:#x}, pages of {}", region.base.value,
                  region.page_size.value);
    }
    if (region.size.value > std::numeric_limits<std::uint64_t>::max() - region.base.value) {
      return fail(ErrorCode::kRegionMismatch, "host address {:#x} with {} bytes", region.base.value,
                  region.size.value);
    }
    if (region.base < end) {
      return fail(ErrorCode::kRegionOverlap, "host address {:#x} is in the region before",
                  region.base.value);
    }
    end = region.base + region.size;
  }
  return {};
}

}  // namespace

Result<RegionTable> RegionTable::check(std::vector<HandoffRegion> handoff,
                                       const SnapshotSpec& spec) {
  if (handoff.empty()) return fail(ErrorCode::kRegionMismatch, "no regions were handed over");
  std::ranges::sort(handoff, {}, [](const HandoffRegion& region) { return region.offset; });
  std::vector<RegionShape> shapes;
  shapes.reserve(handoff.size());
  for (const HandoffRegion& region : handoff) {
    shapes.push_back({region.size, region.offset, region.page_size});
  }
  TRY(check_regions(shapes, spec.memory));
  TRY(check_addresses(handoff));
  if (!spec.regions.empty() && shapes != spec.regions) {
    return fail(ErrorCode::kRegionMismatch,
                "{} regions were handed over, which are not the {} of the snapshot", shapes.size(),
                spec.regions.size());
  }
  for (const RegionShape& shape : shapes) {
    if (shape.page_size.value != kPageBytes) {
      return fail(ErrorCode::kUnsupported, "a region with pages of {} bytes",
                  shape.page_size.value);
    }
  }
  return RegionTable(std::move(handoff));
}

std::optional<PageIndex> RegionTable::page_at(HostAddress address) const {
  for (const HandoffRegion& region : regions_) {
    if (address < region.base || address - region.base >= region.size) continue;
    return page_of(region.offset + (address - region.base));
  }
  return std::nullopt;
}

HostAddress RegionTable::address_of(PageIndex page) const {
  const ImageOffset offset = offset_of(page);
  for (const HandoffRegion& region : regions_) {
    if (offset >= region.offset && offset - region.offset < region.size) {
      return region.base + (offset - region.offset);
    }
  }
  check_failed("the page is guest memory", __FILE__, __LINE__);
}

void RegionTable::for_each_span(HostAddress start, ByteCount length,
                                const std::function<void(PageIndex, PageCount)>& visit) const {
  const HostAddress end = start + length;
  for (const HandoffRegion& region : regions_) {
    const HostAddress from = std::max(start, region.base);
    const HostAddress to = std::min(end, region.base + region.size);
    if (from >= to) continue;
    visit(page_of(region.offset + (from - region.base)), pages_for(to - from));
  }
}

}  // namespace thaw
