#include "faulthandler/regions.h"

#include <algorithm>
#include <limits>
#include <string>

#include "faulthandler/limits.h"

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

/// "3328 MiB", in the largest unit that has no fraction.
std::string size_text(ByteCount size) {
  if (size.value % (1u << 20) == 0) return fmt::format("{} MiB", size.value >> 20);
  if (size.value % (1u << 10) == 0) return fmt::format("{} KiB", size.value >> 10);
  return fmt::format("{} bytes", size.value);
}

/// "2 regions, 3328 MiB + 768 MiB", with the page size where it is not 4 KiB.
std::string regions_text(const std::vector<RegionShape>& regions) {
  constexpr std::size_t kMostNamed = 8;
  std::string text = fmt::format("{} region{}", regions.size(), regions.size() == 1 ? "" : "s");
  for (std::size_t i = 0; i < std::min(regions.size(), kMostNamed); ++i) {
    const RegionShape& region = regions[i];
    text += fmt::format("{}{}", i == 0 ? (regions.size() == 1 ? " of " : ", ") : " + ",
                        size_text(region.size));
    if (region.page_size.value != kPageBytes) {
      text += fmt::format(" in pages of {}", size_text(region.page_size));
    }
  }
  if (regions.size() > kMostNamed) {
    text += fmt::format(" + {} more", regions.size() - kMostNamed);
  }
  return text;
}

/// "the handoff has ...; the snapshot has ...".
std::string both_sides(const std::vector<RegionShape>& handoff, const SnapshotSpec& spec) {
  return fmt::format("the handoff has {}; the snapshot has {}", regions_text(handoff),
                     spec.regions.empty() ? size_text(spec.memory) + " in any regions"
                                          : regions_text(spec.regions));
}

}  // namespace

Result<RegionTable> RegionTable::check(std::vector<HandoffRegion> handoff,
                                       const SnapshotSpec& spec) {
  std::ranges::sort(handoff, {}, [](const HandoffRegion& region) { return region.offset; });
  std::vector<RegionShape> shapes;
  shapes.reserve(handoff.size());
  for (const HandoffRegion& region : handoff) {
    shapes.push_back({region.size, region.offset, region.page_size});
  }
  if (shapes.empty() || (!spec.regions.empty() && shapes != spec.regions)) {
    return fail(ErrorCode::kRegionMismatch, "{}", both_sides(shapes, spec));
  }
  if (const auto fits = check_regions(shapes, spec.memory); !fits) {
    return fail(fits.error().code(), "{}: {}", both_sides(shapes, spec), fits.error().context());
  }
  TRY(check_addresses(handoff));
  return RegionTable(std::move(handoff));
}

bool RegionTable::has_small_pages_only() const {
  return std::ranges::all_of(
      regions_, [](const HandoffRegion& region) { return region.page_size.value == kPageBytes; });
}

bool RegionTable::tracks_writes() const {
  return std::ranges::any_of(
      regions_, [](const HandoffRegion& region) { return region.tracking == WriteTracking::kOn; });
}

std::optional<PageIndex> RegionTable::page_at(HostAddress address) const {
  for (const HandoffRegion& region : regions_) {
    if (address < region.base || address - region.base >= region.size) continue;
    return page_of(region.offset + (address - region.base));
  }
  return std::nullopt;
}

const HandoffRegion* RegionTable::find(PageIndex page) const {
  const ImageOffset offset = offset_of(page);
  for (const HandoffRegion& region : regions_) {
    if (offset >= region.offset && offset - region.offset < region.size) return &region;
  }
  return nullptr;
}

std::optional<HandoffRegion> RegionTable::cut(const HandoffRegion& region, HostAddress start,
                                              ByteCount length) {
  const HostAddress from = std::max(start, region.base);
  const HostAddress to = std::min(start + length, region.base + region.size);
  if (from >= to) return std::nullopt;
  HandoffRegion part = region;
  part.base = from;
  part.size = to - from;
  part.offset = region.offset + (from - region.base);
  return part;
}

std::vector<HandoffRegion> RegionTable::take_out(HostAddress start, ByteCount length) {
  std::vector<HandoffRegion> taken;
  std::vector<HandoffRegion> kept;
  for (const HandoffRegion& region : regions_) {
    const auto part = cut(region, start, length);
    if (!part) {
      kept.push_back(region);
      continue;
    }
    taken.push_back(*part);
    const HostAddress part_end = part->base + part->size;
    if (auto before = cut(region, region.base, part->base - region.base)) kept.push_back(*before);
    if (auto after = cut(region, part_end, region.base + region.size - part_end)) {
      kept.push_back(*after);
    }
  }
  regions_ = std::move(kept);
  return taken;
}

std::vector<PageRange> RegionTable::move(HostAddress from, HostAddress to, ByteCount length) {
  std::vector<PageRange> lost;
  for (const HandoffRegion& region : take_out(to, length)) lost.push_back(pages_of(region));
  for (HandoffRegion region : take_out(from, length)) {
    region.base = to + (region.base - from);
    regions_.push_back(region);
  }
  std::ranges::sort(regions_, {}, [](const HandoffRegion& region) { return region.offset; });
  return lost;
}

Result<void> RegionTable::check_pieces() const {
  if (regions_.size() <= limits::kMaxRegionPieces) return {};
  return fail(ErrorCode::kLimitExceeded, "the VMM has cut its guest memory into {} pieces",
              regions_.size());
}

}  // namespace thaw
