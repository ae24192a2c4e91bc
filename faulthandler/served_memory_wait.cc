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

void ServedMemory::note_shortage(const FillResult& result) {
  const bool begins = !shortage_.active();
  shortage_.note(result.error_number, Clock::now());
  room_.note_refusal();
  if (!begins) return;
  if (!options_.prefetch) return tell_of_shortage();
  room_.look(core_.missing());  // which limit it is
}

void ServedMemory::end_shortage() {
  const Nanoseconds lasted = shortage_.end(Clock::now());
  if (!unservable_.empty() || lasted >= limits::kMemoryLogInterval) {
    owner_.on_memory_short(
        fmt::format("there is memory again after {} ms",
                    std::chrono::duration_cast<std::chrono::milliseconds>(lasted).count()));
  }
  unservable_.clear();
}

std::string ServedMemory::shortage_text() const {
  const std::string what = room_.short_of();
  const std::string number = errno_name(shortage_.error_number());
  return what.empty() ? fmt::format("no memory for guest memory ({})", number)
                      : fmt::format("no memory: {} is full ({})", what, number);
}

void ServedMemory::tell_of_shortage() {
  const auto now = Clock::now();
  if (!shortage_.active()) return;
  if (told_of_shortage_ && now - *told_of_shortage_ < limits::kMemoryLogInterval) return;
  told_of_shortage_ = now;
  owner_.on_memory_short(shortage_text() + "; the guest waits");
}

void ServedMemory::on_prefetch_starved() {
  if (account_.slow()) return;
  const auto now = Clock::now();
  if (told_of_starving_ && now - *told_of_starving_ < limits::kMemoryLogInterval) return;
  told_of_starving_ = now;
  const std::string what = room_.short_of();
  owner_.on_memory_short(fmt::format("prefetch stands still: too little is left of {}",
                                     what.empty() ? "the memory that the VMM may use" : what));
}

void ServedMemory::on_room_seen() {
  if (!serving_) return;
  look_if_quiet();
  tell_of_shortage();
  if (prefetch_ != nullptr) prefetch_->on_room_seen();
}

std::vector<WantedPage> ServedMemory::waiting_for_memory() {
  std::vector<WantedPage> pages;
  for (const DelayedFill& later : delayed_) pages.push_back(later.wanted);
  for (const auto& [page, since] : delayed_zeros_) {
    pages.push_back({.page = page, .chunk = kNoChunk, .since = since});
  }
  for (const HugeFills::Fill& fill : huge_.fills()) {
    if (!fill.active || fill.missing > 0) continue;
    pages.push_back({.page = fill.first, .chunk = kNoChunk, .since = fill.since});
  }
  return pages;
}

void ServedMemory::lose_patience() {
  if (!shortage_.active() || given_up_) return;
  const auto late = Clock::now() - options_.memory_patience;
  for (const WantedPage& wanted : waiting_for_memory()) {
    if (wanted.since > late || given_up_ || !unservable_.insert(wanted.page).second) continue;
    if (owner_.on_unservable(wanted.page, shortage_text()) != Unservable::kPoisoned) continue;
    poison(wanted);
  }
  const auto is_over = [this](PageIndex page) { return core_.state(page) == PageState::kPresent; };
  std::erase_if(delayed_, [&](const auto& later) { return is_over(later.wanted.page); });
  std::erase_if(delayed_zeros_, [&](const auto& zero) { return is_over(zero.first); });
  for (HugeFills::Fill& fill : huge_.fills()) {
    if (fill.active && fill.missing == 0 && is_over(fill.first)) end_huge(fill);
  }
}

void ServedMemory::poison(const WantedPage& wanted) {
  const HandoffRegion* const region = regions_.find(wanted.page);
  if (region == nullptr) return note_failure({FillOutcome::kRangeGone, {0}}, {wanted.page, {1}});
  const PageRange unit = unit_of(wanted.page, *region);
  const HostAddress address = RegionTable::address_in(*region, unit.first);
  const FillResult result = poison_pages(userfaultfd_, address, bytes_of(unit.count));
  // Behind the REMOVE that is in the way it is looked at again.
  if (is_hindered(result)) return set_aside(wanted);
  if (result.outcome != FillOutcome::kFilled) return settle(result, address, unit, wanted.since);
  poisoned_pages_ += unit.count.value;
  note_filled(unit);
}

}  // namespace thaw
