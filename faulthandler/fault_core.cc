#include "faulthandler/fault_core.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"

namespace thaw {

namespace {

/// Zero pages filled at once: about 0.1 us each.
constexpr std::uint64_t kZeroBlock = 16;

/// The states of eight pages at once: a guest may give back all of a large memory again and again.
using EightStates = std::array<PageState, 8>;
constexpr EightStates eight_times(PageState state) {
  EightStates states{};
  states.fill(state);
  return states;
}
constexpr EightStates kEightRemoved = eight_times(PageState::kRemoved);
constexpr EightStates kEightMissing = eight_times(PageState::kMissing);

bool are(std::span<const PageState> states, const EightStates& these) {
  return states.size() >= these.size() &&
         std::memcmp(states.data(), these.data(), these.size()) == 0;
}

}  // namespace

FaultCore::FaultCore(const PageMap& map, std::span<PageState> states, std::uint32_t around)
    : map_(map), states_(states), window_(around) {
  const auto count = [&](PageState state) {
    return static_cast<std::uint64_t>(std::ranges::count(states_, state));
  };
  present_pages_ = count(PageState::kPresent);
  removed_pages_ = count(PageState::kRemoved);
}

FaultCore::Need FaultCore::on_fault(PageRange unit) {
  CHECK(unit.count.value > 0 && within(unit.first.value, unit.count.value, states_.size()));
  ++faults_.total;
  const PageState before = state(unit.first);
  switch (before) {
    case PageState::kRemoved:
      ++faults_.removed;
      return Need::kZero;
    case PageState::kPresent:
      ++faults_.present;
      return Need::kWake;
    case PageState::kComing:
      states_[unit.first.value] = PageState::kWanted;
      ++faults_.coalesced;
      return Need::kHurry;
    case PageState::kWanted:
      ++faults_.coalesced;
      return Need::kWait;
    case PageState::kProbe:
    case PageState::kMissing:
      break;
  }
  const PageMap::Run& run = run_of(unit.first);
  if (run.zero() && run.end() >= unit.first + unit.count) {
    ++faults_.zero;
    return Need::kZero;
  }
  ++faults_.fetched;
  leave_state(unit.first, Probe::Fate::kAskedFor);
  const auto first = states_.begin() + static_cast<std::ptrdiff_t>(unit.first.value);
  std::fill_n(first, unit.count.value, PageState::kWanted);
  return Need::kFetch;
}

bool FaultCore::on_remove(PageIndex first, PageCount count) {
  CHECK(within(first.value, count.value, states_.size()));
  bool wanted = false;
  const std::span<PageState> states = states_.subspan(first.value, count.value);
  for (std::size_t i = 0; i < states.size();) {
    const std::span<PageState> rest = states.subspan(i);
    if (are(rest, kEightRemoved)) {
      i += kEightRemoved.size();
      continue;
    }
    if (are(rest, kEightMissing)) {
      std::ranges::copy(kEightRemoved, rest.begin());
      removed_pages_ += kEightRemoved.size();
      i += kEightRemoved.size();
      continue;
    }
    wanted = wanted || rest[0] == PageState::kWanted;
    if (rest[0] != PageState::kRemoved) {
      leave_state(first + PageCount{i}, Probe::Fate::kWithdrawn);
      rest[0] = PageState::kRemoved;
      ++removed_pages_;
    }
    ++i;
  }
  return wanted;
}

void FaultCore::on_filled(PageIndex page) {
  PageState& state = states_[page.value];
  if (state == PageState::kRemoved || state == PageState::kPresent) return;
  leave_state(page, Probe::Fate::kWithdrawn);
  state = PageState::kPresent;
  ++present_pages_;
}

void FaultCore::on_gone(PageRange unit) {
  for (std::uint64_t i = unit.first.value; i < unit.first.value + unit.count.value; ++i) {
    if (states_[i] == PageState::kWanted) states_[i] = PageState::kMissing;
  }
}

void FaultCore::on_coming(PageIndex page) {
  if (!is_missing(page)) return;
  leave_state(page, Probe::Fate::kWithdrawn);
  states_[page.value] = PageState::kComing;
}

bool FaultCore::all_accounted(ZeroPages zeros) const {
  for (PageMap::Cursor cursor(map_); !cursor.at_end(); cursor.next()) {
    const PageMap::Run run = cursor.run();
    if (run.first.value >= states_.size()) break;
    if (run.zero() && zeros == ZeroPages::kNot) continue;
    const std::size_t end = std::min<std::size_t>(run.end().value, states_.size());
    for (std::size_t page = run.first.value; page < end; ++page) {
      if (states_[page] != PageState::kPresent && states_[page] != PageState::kRemoved)
        return false;
    }
  }
  return true;
}

bool FaultCore::on_left_out(PageIndex page) {
  PageState& state = states_[page.value];
  if (state == PageState::kComing) state = PageState::kMissing;
  return state == PageState::kWanted;
}

void FaultCore::leave_state(PageIndex page, Probe::Fate fate) {
  if (state(page) == PageState::kPresent) --present_pages_;
  if (state(page) != PageState::kProbe) return;
  const auto kept = std::span(probes_).first(std::min<std::size_t>(probe_count_, probes_.size()));
  const auto probe = std::ranges::find_if(kept, [page](const Probe& each) {
    return each.page == page && each.fate == Probe::Fate::kOpen;
  });
  CHECK(probe != kept.end());
  probe->fate = fate;
  if (fate == Probe::Fate::kAskedFor) {
    window_.on_hit();
  } else {
    window_.on_withdrawn();
  }
}

PageRange FaultCore::missing_around(PageIndex page, PageRange region, std::uint64_t block) const {
  const PageMap::Run& run = run_of(page);
  const std::uint64_t block_start = page.value / block * block;
  const std::uint64_t least = std::max({block_start, run.first.value, region.first.value});
  const std::uint64_t end =
      std::min({block_start + block, run.end().value, region.first.value + region.count.value,
                std::uint64_t{states_.size()}});
  const auto missing = [this](std::uint64_t i) {
    return states_[i] == PageState::kMissing || states_[i] == PageState::kProbe;
  };
  std::uint64_t from = page.value;
  while (from > least && missing(from - 1)) --from;
  std::uint64_t to = page.value + 1;
  while (to < end && missing(to)) ++to;
  return {{from}, {to - from}};
}

PageRange FaultCore::neighbourhood(PageIndex page, PageRange region) {
  const std::uint32_t probe_size = window_.next_probe_size();
  if (probe_size > 1) leave_one_out(page, missing_around(page, region, probe_size));
  const std::uint32_t size = window_.size();
  return size > 1 ? missing_around(page, region, size) : PageRange{page, {0}};
}

void FaultCore::leave_one_out(PageIndex page, PageRange from) {
  // Any of them, in an order that no guest follows.
  const std::uint64_t place = (++draws_ * 0x9E37'79B9'7F4A'7C15u) >> 32;
  const PageIndex probe{from.first.value + place % from.count.value};
  if (probe == page || state(probe) != PageState::kMissing) return;
  Probe& slot = probes_[probe_count_ % probes_.size()];
  auto expired = AroundWindow::Expired::kNone;
  if (probe_count_ >= probes_.size() && slot.fate == Probe::Fate::kOpen) {
    states_[slot.page.value] = PageState::kMissing;
    expired = AroundWindow::Expired::kMiss;
  } else if (probe_count_ >= probes_.size() && slot.fate == Probe::Fate::kAskedFor) {
    expired = AroundWindow::Expired::kHit;
  }
  slot = {probe};
  ++probe_count_;
  states_[probe.value] = PageState::kProbe;
  window_.on_probe(expired);
}

PageRange FaultCore::zeros_around(PageIndex page, PageRange region) const {
  // Only for a guest that goes from page to page: a single fault must not wait for the others.
  const auto was_filled = [&](std::uint64_t i) {
    return i < states_.size() && states_[i] == PageState::kPresent;
  };
  if (!was_filled(page.value + 1) && (page.value == 0 || !was_filled(page.value - 1))) {
    return {page, {1}};
  }
  return missing_around(page, region, kZeroBlock);
}

}  // namespace thaw
