// Pages that no page server brings.

#include <algorithm>

#include "faulthandler/served_memory.h"

namespace thaw {

void ServedMemory::unservable(const WantedPage& wanted, const std::string& reason) {
  switch (owner_.on_unservable(wanted.page, reason)) {
    case Unservable::kWaits:
      return set_aside(wanted);
    case Unservable::kPoisoned:
      return poison(wanted);
    case Unservable::kEnds:
      return;
  }
}

void ServedMemory::set_aside(const WantedPage& wanted) {
  stuck_.push_back({.page = wanted.page, .chunk = wanted.chunk, .since = wanted.since});
  if (!unsticking_.active()) loop_.wait(limits::kUnservableRetry, unsticking_);
}

void ServedMemory::on_stuck_timer() {
  if (!serving_) return;
  std::erase_if(stuck_, [this](const WantedPage& wanted) {
    return core_.state(wanted.page) == PageState::kPresent;  // by now, or poisoned
  });
  wanted_.insert(wanted_.end(), stuck_.begin(), stuck_.end());
  stuck_.clear();
  ask_for_wanted();
}

std::vector<WantedPage> ServedMemory::waiting_pages() const {
  std::vector<WantedPage> pages(stuck_);
  pages.insert(pages.end(), wanted_.begin() + static_cast<std::ptrdiff_t>(next_wanted_),
               wanted_.end());
  link_.for_each_page(*this, [&](const WantedPage& wanted) { pages.push_back(wanted); });
  std::erase_if(pages, [this](const WantedPage& wanted) {
    return core_.state(wanted.page) != PageState::kWanted;
  });
  return pages;
}

std::optional<Clock::time_point> ServedMemory::waiting_since() const {
  if (!serving_ || given_up_) return std::nullopt;
  const std::vector<WantedPage> pages = waiting_pages();
  const auto first = std::ranges::min_element(pages, {}, &WantedPage::since);
  return first != pages.end() ? std::optional(first->since) : std::nullopt;
}

void ServedMemory::stop_waiting(Clock::time_point since, const std::string& reason) {
  for (const WantedPage& wanted : waiting_pages()) {
    if (wanted.since > since || core_.state(wanted.page) != PageState::kWanted) continue;
    if (owner_.on_unservable(wanted.page, reason) == Unservable::kPoisoned) poison(wanted);
  }
}

void ServedMemory::poison(const WantedPage& wanted) {
  const HandoffRegion* const region = regions_.find(wanted.page);
  if (region == nullptr) return note_failure({FillOutcome::kRangeGone, {0}}, {wanted.page, {1}});
  const PageRange unit = unit_of(wanted.page, *region);
  const HostAddress address = RegionTable::address_in(*region, unit.first);
  const FillResult result = poison_pages(userfaultfd_, address, bytes_of(unit.count));
  // Behind the REMOVE that is in the way it is looked at again.
  if (result.outcome == FillOutcome::kRemoving) return set_aside(wanted);
  if (result.outcome != FillOutcome::kFilled) return settle(result, address, unit, wanted.since);
  poisoned_pages_ += unit.count.value;
  note_filled(unit);
}

}  // namespace thaw
