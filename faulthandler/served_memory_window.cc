// What a session does beside its faults: the window after its restore, and what prefetch tells it.

#include <algorithm>

#include "faulthandler/served_memory.h"

namespace thaw {

void ServedMemory::want_on_demand(std::span<const PageIndex> pages) {
  if (!serving_) return;
  const auto now = Clock::now();
  for (const PageIndex page : pages) want(page, now);
  ask_for_wanted();
}

void ServedMemory::on_prefetched(PageRange pages) {
  owner_.on_present(pages);
  if (options_.window_use != WindowUse::kTrace) return;
  const auto now = Clock::now();
  for (std::uint64_t i = 0; i < pages.count.value; ++i) {
    recorder_.note(pages.first + PageCount{i}, TouchKind::kPrefetch, now);
  }
}

void ServedMemory::on_prefetch_failed(int error_number) {
  give_up(fmt::format("putting in prefetched pages failed with errno {}", error_number));
}

void ServedMemory::on_complete() {
  if (regions_.tracks_writes()) return;
  for (const HandoffRegion& region : regions_.regions()) {
    if (const auto ended = unregister(userfaultfd_, region.base, region.size); !ended) {
      return give_up(ended.error().message());
    }
  }
  record_.set_detached();
  // Nobody waits any more: what is still asked for was given back meanwhile.
  link_.forget(*this);
  asked_ = next_wanted_ = 0;
  wanted_.clear();
  stuck_.clear();
  delayed_.clear();
  delayed_zeros_.clear();
  owner_.on_detached();
}

void ServedMemory::await_window_end() {
  loop_.wait(std::min(options_.window.idle, options_.window.most), windowing_);
}

void ServedMemory::on_window_timer() {
  if (!serving_ || !recorder_.running()) return;
  const auto now = Clock::now();
  // A recording begins with the guest's first touch: the VMM may keep it waiting.
  const bool has_begun = !records() || recorder_.count() > 0;
  const bool may_begin = now - recorder_.started() < limits::kFirstTouchPatience;
  if (!has_begun && may_begin) return await_window_end();
  if (recorder_.end() <= now) return end_window();
  loop_.wait(recorder_.end() - now, windowing_);
}

void ServedMemory::end_window() {
  if (!recorder_.running()) return;
  const bool recorded = records();
  recorder_.stop();
  if (recorded && serving_) begin_prefetch();
  owner_.on_window_end(recorder_.take());
}

}  // namespace thaw
