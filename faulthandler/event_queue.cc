#include "faulthandler/event_queue.h"

#include <algorithm>

#include "base/limits.h"
#include "faulthandler/limits.h"

namespace thaw {

EventQueue::EventQueue() {
  // All that a fault needs is made here.
  events_.reserve(limits::kMaxEventReads * limits::kUserfaultfdEventsPerRead);
  removed_.reserve(limits::kMaxEventReads * limits::kUserfaultfdEventsPerRead);
}

Result<void> EventQueue::read(const UniqueFd& userfaultfd) {
  events_.clear();
  for (std::size_t i = 0; i < limits::kMaxEventReads; ++i) {
    if (TRY(read_events(userfaultfd, events_)) < limits::kUserfaultfdEventsPerRead) break;
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
  for (MemoryEvent& event : events_) {
    if (const auto* removed = std::get_if<RemoveEvent>(&event)) {
      removed_.push_back(*removed);
    } else if (const auto* unmapped = std::get_if<UnmapEvent>(&event)) {
      removed_.push_back({unmapped->start, unmapped->length});
    } else if (const auto* moved = std::get_if<RemapEvent>(&event)) {
      apply_removed(userfaultfd, regions, sink);
      auto followed = apply(*moved, userfaultfd, regions, sink);
      if (!followed) applied = std::move(followed);
    } else if (auto* const forked = std::get_if<ForkEvent>(&event)) {
      children_.push_back(std::move(forked->child));
      applied = fail(ErrorCode::kUnsupported, "the VMM forked with its userfaultfd");
    }
  }
  apply_removed(userfaultfd, regions, sink);
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
