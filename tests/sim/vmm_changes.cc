// How a VMM changes its memory, as the kernel has it step by step.

#include <algorithm>

#include "tests/sim/vmm.h"

namespace thaw::sim {

namespace {

constexpr std::chrono::milliseconds kMostChangeDelay{400};  // from the start to a change
constexpr std::chrono::microseconds kMostZapDelay{100};
constexpr std::uint64_t kMostChangedPages = 48;

}  // namespace

void Vmm::plan(unsigned times, void (Vmm::*change)()) {
  for (unsigned i = 0; i < times; ++i) {
    ++changing_;
    machine_.schedule().after(machine_.random().duration(kMostChangeDelay), [this, change] {
      if (!exited()) (this->*change)();
    });
  }
}

std::optional<Vmm::Range> Vmm::draw_range() {
  const auto& pages = memory_.pages();
  if (pages.empty()) return std::nullopt;
  auto page =
      std::next(pages.begin(), static_cast<std::ptrdiff_t>(machine_.random().below(pages.size())));
  Range range{{page->first}, 0};
  for (std::uint64_t most = machine_.random().from_to(1, kMostChangedPages);
       range.pages < most && page != pages.end() &&
       page->first == range.start.value + range.bytes().value;
       ++page) {
    ++range.pages;
  }
  return range;
}

template <typename Visit>
void Vmm::for_each_page(const Range& range, Visit visit) {
  for (std::uint64_t i = 0; i < range.pages; ++i) {
    GuestMemory::Page* const page = memory_.find(range.start + bytes_of({i}));
    if (page != nullptr) visit(*page);
  }
}

/// Whether nothing else is being done to any of it: no VMM does two things at once to the same
/// memory, but for giving it back twice.
bool Vmm::is_settled(const Range& range, Removals removals) {
  bool settled = true;
  for_each_page(range, [&](const GuestMemory::Page& page) {
    settled = settled && page.registered && !page.moves &&
              (removals == Removals::kIgnored || page.removals == 0);
  });
  return settled;
}

void Vmm::announce(std::uint8_t event, const Range& range, std::function<void()> then) {
  const auto userfaultfd = userfaultfd_.lock();
  if (userfaultfd == nullptr) return then();
  uffd_msg message{};
  message.event = event;
  message.arg.remove.start = range.start.value;
  message.arg.remove.end = (range.start + range.bytes()).value;
  userfaultfd->announce(message, [this, then = std::move(then)] {
    if (!exited()) then();
  });
}

void Vmm::announce_move(const Range& from, HostAddress to, std::function<void()> then) {
  const auto userfaultfd = userfaultfd_.lock();
  if (userfaultfd == nullptr) return then();
  uffd_msg message{};
  message.event = UFFD_EVENT_REMAP;
  message.arg.remap.from = from.start.value;
  message.arg.remap.to = to.value;
  message.arg.remap.len = from.bytes().value;
  userfaultfd->announce(message, [this, then = std::move(then)] {
    if (!exited()) then();
  });
}

/// madvise(MADV_DONTNEED): announced, read, acknowledged, and only then do the pages go.
void Vmm::remove() {
  const auto range = draw_range();
  if (!range) return end_change();
  bool registered = false;
  for_each_page(*range, [&](const GuestMemory::Page& page) { registered |= page.registered; });
  const auto userfaultfd = userfaultfd_.lock();
  if (!registered || userfaultfd == nullptr) return zap(*range);
  if (!is_settled(*range, Removals::kIgnored)) return end_change();
  if (options_.shared) {
    // As the clients of this project do before they give a page back.
    for (auto& [address, page] : memory_.pages()) page.minor = true;
  }
  for_each_page(*range, [](GuestMemory::Page& page) { ++page.removals; });
  machine_.schedule().note("{} pages at {:#x} are given back", range->pages, range->start.value);
  userfaultfd->begin_change();
  announce(UFFD_EVENT_REMOVE, *range, [this, range = *range] {
    machine_.schedule().after(machine_.random().duration(kMostZapDelay), [this, range] {
      if (!exited()) zap(range);
    });
  });
}

void Vmm::zap(const Range& range) {
  machine_.schedule().note("{} pages at {:#x} go", range.pages, range.start.value);
  for_each_page(range, [](GuestMemory::Page& page) {
    // It may have been moved here meanwhile.
    if (page.removals > 0) --page.removals;
    GuestMemory::zap(page);
  });
  end_change();
}

/// munmap: the pages go, and then that is announced.
void Vmm::unmap() {
  const auto range = draw_range();
  if (!range) return end_change();
  const auto userfaultfd = userfaultfd_.lock();
  if (userfaultfd == nullptr || !is_settled(*range, Removals::kCounted)) return end_change();
  machine_.schedule().note("{} pages at {:#x} are unmapped", range->pages, range->start.value);
  take_away(*range);
  userfaultfd->begin_change();
  announce(UFFD_EVENT_UNMAP, *range, [this] { end_change(); });
}

void Vmm::take_away(const Range& range) {
  for (std::uint64_t i = 0; i < range.pages; ++i) memory_.unmap(range.start + bytes_of({i}));
}

/// An address for what is moved: where nothing is, or over other memory of the guest.
HostAddress Vmm::draw_target(const Range& from) {
  const auto over = machine_.random().chance(250) ? draw_range() : std::nullopt;
  const auto apart = [&](const Range& other) {
    return other.start >= from.start + from.bytes() || from.start >= other.start + from.bytes();
  };
  if (over && over->pages >= from.pages && apart({over->start, from.pages})) return over->start;
  const HostAddress free = next_free_;
  next_free_ += from.bytes() + bytes_of({machine_.random().below(2)});
  return free;
}

/// mremap: what was at the target goes, the pages move, and then all of that is announced, one
/// after the other.
void Vmm::move() {
  const auto from = draw_range();
  if (!from) return end_change();
  const Range to{draw_target(*from), from->pages};
  const bool over_others = memory_.find(to.start) != nullptr;
  const auto userfaultfd = userfaultfd_.lock();
  if (userfaultfd == nullptr || !is_settled(*from, Removals::kCounted) ||
      !is_settled(to, Removals::kCounted)) {
    return end_change();
  }
  machine_.schedule().note("{} pages at {:#x} are moved to {:#x}", from->pages, from->start.value,
                           to.start.value);
  if (over_others) take_away(to);
  for (std::uint64_t i = 0; i < from->pages; ++i) {
    memory_.move(from->start + bytes_of({i}), to.start + bytes_of({i}));
  }
  for_each_page(to, [](GuestMemory::Page& page) { page.moves = true; });
  const auto end_move = [this, to] {
    for_each_page(to, [](GuestMemory::Page& page) { page.moves = false; });
    end_change();
  };
  const auto announce_rest = [this, from = *from, to, end_move] {
    announce_move(from, to.start,
                  [this, from, end_move] { announce(UFFD_EVENT_UNMAP, from, end_move); });
  };
  for (int events = over_others ? 3 : 2; events > 0; --events) userfaultfd->begin_change();
  if (!over_others) return announce_rest();
  announce(UFFD_EVENT_UNMAP, to, announce_rest);
}

void Vmm::send_signals() {
  if (const auto userfaultfd = userfaultfd_.lock()) userfaultfd->interrupt();
  end_change();
}

}  // namespace thaw::sim
