#include "cli/working_set_view.h"

#include <algorithm>

namespace thaw {

std::uint64_t WorkingSetView::pages_of(TouchClass when) const {
  return static_cast<std::uint64_t>(std::ranges::count(set.pages, when, &SetPage::when));
}

std::uint64_t WorkingSetView::packed_pages() const {
  std::uint64_t pages = 0;
  for (const PackShape& pack : set.packs) pages += pack.pages;
  return pages;
}

Result<WorkingSetView> fetch_working_set(PageClient& client, const Manifest& snapshot) {
  WorkingSet set = TRY(client.working_set(snapshot.snapshot));
  return WorkingSetView{snapshot, std::move(set),
                        TRY(client.working_set_report(snapshot.snapshot))};
}

}  // namespace thaw
