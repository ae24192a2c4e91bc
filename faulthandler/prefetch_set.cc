#include "faulthandler/prefetch_set.h"

#include <algorithm>

namespace thaw {

namespace {

/// Ascending pages as ranges.
std::vector<PageRange> ranges_of(std::vector<PageIndex> pages) {
  std::ranges::sort(pages);
  std::vector<PageRange> ranges;
  for (const PageIndex page : pages) append_page(ranges, page);
  return ranges;
}

}  // namespace

void append_page(std::vector<PageRange>& ranges, PageIndex page) {
  if (ranges.empty() || ranges.back().first + ranges.back().count != page) {
    ranges.push_back({page, {0}});
  }
  ranges.back().count += PageCount{1};
}

Result<PrefetchSet> PrefetchSet::create(const WorkingSet& set, const PageMap& map,
                                        PageCount memory) {
  auto packed = TRY(packed_pages(set, map, memory));
  PrefetchSet result;
  result.snapshot_ = set.snapshot;
  result.generation_ = set.generation;
  if (set.generation > 0) result.recordings_ = set.recordings;
  result.page_count_ = set.pages.size();
  std::vector<PageIndex> zeros[3];
  std::vector<TouchClass> classes;  // of the pages that are not zero
  for (const SetPage& page : set.pages) {
    if (map.chunk_of(page.page).valid()) {
      classes.push_back(page.when);
    } else {
      zeros[static_cast<std::size_t>(page.when)].push_back(page.page);
    }
  }
  std::size_t first = 0;
  for (std::size_t i = 0; i < packed.size(); ++i) {
    for (const PackPage& page : packed[i]) {
      result.places_.push_back({page.page, static_cast<std::uint32_t>(i)});
    }
    const TouchClass when = classes[first];
    first += packed[i].size();
    result.packs_.push_back({std::move(packed[i]), set.packs[i].bytes, when});
  }
  std::ranges::sort(result.places_, {}, &Place::page);
  for (const TouchClass when : {TouchClass::kFirst, TouchClass::kEarly, TouchClass::kLate}) {
    auto& pages = zeros[static_cast<std::size_t>(when)];
    if (!pages.empty()) result.zeros_.push_back({ranges_of(std::move(pages)), when});
  }
  return result;
}

std::optional<std::size_t> PrefetchSet::pack_of(PageIndex page) const {
  const auto found = std::ranges::lower_bound(places_, page, {}, &Place::page);
  if (found == places_.end() || found->page != page) return std::nullopt;
  return found->pack;
}

}  // namespace thaw
