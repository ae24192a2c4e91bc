#include "faulthandler/fault_core.h"

#include "base/check.h"

namespace thaw {

FaultCore::Need FaultCore::on_fault(PageIndex page) {
  CHECK(page.value < states_.size());
  ++faults_.total;
  switch (states_[page.value]) {
    case PageState::kRemoved:
      ++faults_.removed;
      return Need::kZero;
    case PageState::kPresent:
      ++faults_.present;
      return Need::kWake;
    case PageState::kWanted:
      ++faults_.coalesced;
      return Need::kWait;
    case PageState::kMissing:
      break;
  }
  if (!map_.chunk_of(page).valid()) {
    ++faults_.zero;
    return Need::kZero;
  }
  ++faults_.fetched;
  states_[page.value] = PageState::kWanted;
  return Need::kFetch;
}

void FaultCore::on_remove(PageIndex first, PageCount count) {
  CHECK(within(first.value, count.value, states_.size()));
  for (std::uint64_t i = first.value; i < first.value + count.value; ++i) {
    if (states_[i] == PageState::kPresent) --present_pages_;
    states_[i] = PageState::kRemoved;
  }
  removed_pages_ += count.value;
}

void FaultCore::on_filled(PageIndex page) {
  PageState& state = states_[page.value];
  if (state == PageState::kRemoved || state == PageState::kPresent) return;
  state = PageState::kPresent;
  ++present_pages_;
}

}  // namespace thaw
