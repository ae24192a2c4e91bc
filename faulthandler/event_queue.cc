#include "faulthandler/event_queue.h"

#include <algorithm>
#include <atomic>

#include "base/limits.h"
#include "faulthandler/limits.h"

namespace thaw {

EventQueue::EventQueue(MemoryRecord& record)
    : record_(record), journal_(record.journal()), used_(journal_.events.size()) {
  // All that a fault needs is made here.
  events_.reserve(journal_.events.size());
  removed_.reserve(journal_.events.size());
}

/// A process that dies keeps the order in which it wrote: only the compiler may not change it.
void EventQueue::begin_batch() {
  std::ranges::fill(std::span(journal_.events).first(used_), RawEvent{});
  used_ = 0;
  events_.clear();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  ++journal_.batch;
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

Result<void> EventQueue::read(const UniqueFd& userfaultfd) {
  begin_batch();
  const std::span<RawEvent> room(journal_.events);
  Result<void> ended;
  for (std::size_t i = 0; i < limits::kMaxEventReads; ++i) {
    const auto count =
        read_raw_events(userfaultfd, room.subspan(used_, limits::kUserfaultfdEventsPerRead));
    if (!count) ended = std::unexpected(count.error());
    used_ += count.value_or(0);
    if (count.value_or(0) < limits::kUserfaultfdEventsPerRead) break;
  }
  TRY(decode_events(room.first(used_), events_));
  return ended;
}

Result<void> EventQueue::take_over(const UniqueFd& userfaultfd, RegionTable& regions, Sink& sink) {
  events_.clear();
  // Pages that are removed twice are removed. Memory moves once: with the regions of the batch all
  // of it has taken effect.
  const bool applied = journal_.applied == journal_.batch || record_.regions_are_of_batch();
  if (!applied) {
    TRY(decode_events(journal_.events, events_));
    TRY(apply_changes(userfaultfd, regions, sink));
  }
  for (const HandoffRegion& region : regions.regions()) {
    wake_pages(userfaultfd, region.base, region.size);
  }
  return {};
}

bool EventQueue::has_changes() const {
  return !std::ranges::all_of(
      events_, [](const MemoryEvent& event) { return std::holds_alternative<FaultEvent>(event); });
}

Result<void> EventQueue::apply_changes(const UniqueFd& userfaultfd, RegionTable& regions,
                                       Sink& sink) {
  Result<void> applied;
  for (const MemoryEvent& event : events_) {
    if (const auto* removed = std::get_if<RemoveEvent>(&event)) {
      removed_.push_back(*removed);
    } else if (const auto* unmapped = std::get_if<UnmapEvent>(&event)) {
      removed_.push_back({unmapped->start, unmapped->length});
    } else if (const auto* moved = std::get_if<RemapEvent>(&event)) {
      apply_removed(userfaultfd, regions, sink);
      auto followed = apply(*moved, userfaultfd, regions, sink);
      if (!followed) applied = std::move(followed);
    }
  }
  apply_removed(userfaultfd, regions, sink);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  const bool moved = std::ranges::any_of(
      events_, [](const MemoryEvent& event) { return std::holds_alternative<RemapEvent>(event); });
  if (moved && regions.check_pieces()) record_.keep(regions.regions());
  journal_.applied = journal_.batch;
  return applied;
}

void EventQueue::apply_removed(const UniqueFd& userfaultfd, const RegionTable& regions,
                               Sink& sink) {
  // Each page once, however often the VMM has named it: that costs it little, and us a look at it.
  std::ranges::sort(removed_, {}, &RemoveEvent::start);
  HostAddress done{0};
  for (const RemoveEvent& removed : removed_) {
    const HostAddress start = std::max(removed.start, done);
    const HostAddress end = removed.start + removed.length;
    if (start >= end) continue;
    done = end;
    bool wanted = false;
    regions.for_each_range(start, end - start, [&](PageRange range) {
      if (sink.on_removed(range)) wanted = true;
    });
    // Who waits in there faults again, and gets zeros.
    if (wanted) wake_pages(userfaultfd, start, end - start);
  }
  removed_.clear();
}

Result<void> EventQueue::apply(const RemapEvent& moved, const UniqueFd& userfaultfd,
                               RegionTable& regions, Sink& sink) {
  // Also when these are more pieces than may be: what is lost is not missing.
  for (const PageRange range : regions.move(moved.from, moved.to, moved.length)) {
    sink.on_removed(range);
  }
  // Who waits at an address that means another page now, or none.
  wake_pages(userfaultfd, moved.from, moved.length);
  wake_pages(userfaultfd, moved.to, moved.length);
  return regions.check_pieces();
}

}  // namespace thaw
