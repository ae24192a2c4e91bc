#include "pageserver/rank.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <unordered_set>

#include "base/check.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr std::size_t kClasses = 3;

/// A first touch, small because there are up to 2^23 of them.
struct Sighting {
  std::uint32_t page;
  std::uint32_t us;
  friend auto operator<=>(const Sighting&, const Sighting&) = default;
};
static_assert(limits::kMaxImagePages <= std::uint64_t{1} << 32);

TouchClass class_of(std::uint32_t median_us) {
  if (median_us <= kFirstUntilUs) return TouchClass::kFirst;
  return median_us <= kEarlyUntilUs ? TouchClass::kEarly : TouchClass::kLate;
}

bool comes_before(const SetPage& a, const SetPage& b) {
  return std::tuple(a.when, b.seen, a.median_us, a.page) <
         std::tuple(b.when, a.seen, b.median_us, b.page);
}

/// Appends packs for `pages` pages, as even as can be, the larger ones last.
void cut(std::size_t pages, std::size_t packs, std::vector<PackShape>& to) {
  for (std::size_t i = 0; i < packs; ++i) {
    const bool larger = i >= packs - pages % packs;
    to.push_back({.pages = static_cast<std::uint16_t>(pages / packs + (larger ? 1 : 0))});
  }
}

}  // namespace

std::vector<const Recording*> ranked(std::span<const Recording> recordings) {
  std::vector<std::size_t> sizes;
  for (const Recording& recording : recordings) sizes.push_back(recording.touches.size());
  std::ranges::sort(sizes);
  const std::size_t median = sizes.empty() ? 0 : sizes[sizes.size() / 2];
  std::vector<const Recording*> taken;
  for (const Recording& recording : recordings) {
    if (recording.touches.size() * kLeastPart >= median) taken.push_back(&recording);
  }
  return taken;
}

std::vector<SetPage> rank(std::span<const Recording> all) {
  CHECK(all.size() <= limits::kMaxRecordings);
  const std::vector<const Recording*> recordings = ranked(all);
  std::vector<Sighting> sightings;
  for (const Recording* const recording : recordings) {
    for (const Touch& touch : recording->touches) {
      sightings.push_back({static_cast<std::uint32_t>(touch.page.value), touch.us});
    }
  }
  std::ranges::sort(sightings);
  std::vector<SetPage> pages;
  for (auto first = sightings.begin(); first != sightings.end();) {
    const auto end = std::find_if(first, sightings.end(),
                                  [&](const Sighting& next) { return next.page != first->page; });
    const auto seen = static_cast<std::size_t>(end - first);
    if (belongs(seen, recordings.size())) {
      const std::uint32_t median_us = first[(end - first - 1) / 2].us;
      pages.push_back({.page = {first->page},
                       .when = class_of(median_us),
                       .seen = static_cast<std::uint8_t>(seen),
                       .median_us = median_us});
    }
    first = end;
  }
  std::ranges::sort(pages, comes_before);
  if (pages.size() > limits::kMaxTouches) pages.resize(limits::kMaxTouches);
  return pages;
}

std::vector<SetPage> inherit(std::span<const SetPage> parent_set, const PageMap& parent,
                             const PageMap& child, PageCount memory) {
  std::vector<SetPage> same;
  for (const SetPage& page : parent_set) {
    if (page.page.value >= std::min(memory, parent.size()).value) continue;
    if (parent.chunk_of(page.page) == child.chunk_of(page.page)) same.push_back(page);
  }
  return same;
}

std::size_t judge(std::span<const SetPage> pages, const Recording& recording) {
  std::unordered_set<std::uint64_t> touched;
  for (const Touch& touch : recording.touches) touched.insert(touch.page.value);
  return static_cast<std::size_t>(std::ranges::count_if(
      pages, [&](const SetPage& page) { return touched.contains(page.page.value); }));
}

std::vector<PackShape> pack_groups(std::span<const SetPage> pages, const PageMap& map) {
  std::array<std::size_t, kClasses> due{};  // by class, in no pack yet
  for (const SetPage& page : pages) {
    if (map.chunk_of(page.page).valid()) ++due[static_cast<std::size_t>(page.when)];
  }
  // A class that is too small for a pack takes pages from the next ones. The last one goes with the
  // class before it.
  struct Group {
    std::size_t pages;
    bool of_first;
  };
  std::vector<Group> groups;
  for (std::size_t i = 0; i < kClasses; ++i) {
    std::size_t taken = due[i];
    if (taken == 0) continue;
    for (std::size_t next = i + 1; next < kClasses && taken < limits::kMinPackPages; ++next) {
      const std::size_t more = std::min(limits::kMinPackPages - taken, due[next]);
      taken += more;
      due[next] -= more;
    }
    if (taken < limits::kMinPackPages && !groups.empty()) {
      groups.back().pages += taken;
    } else {
      groups.push_back({.pages = taken, .of_first = i == 0});
    }
  }
  std::vector<PackShape> packs;
  for (const auto& [size, of_first] : groups) {
    const std::size_t count = of_first ? size / limits::kMinPackPages
                                       : (size + limits::kMaxPackPages - 1) / limits::kMaxPackPages;
    cut(size, std::max<std::size_t>(count, 1), packs);
  }
  return packs;
}

}  // namespace thaw
