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
  give_up(fmt::format("putting in prefetched pages failed: {}", errno_text(error_number)));
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

void ServedMemory::await_window_end(Nanoseconds most) {
  if (!records() || guest_has_run_) return loop_.wait(most, windowing_);
  // Until the guest is known to run it is looked at, soon at first.
  loop_.wait(std::min<Nanoseconds>(most, look_pause_), windowing_);
  look_pause_ = std::min<Nanoseconds>(look_pause_ * 2, limits::kVcpuLookMost);
}

void ServedMemory::on_window_timer() {
  if (!serving_ || !recorder_.running()) return;
  const auto now = Clock::now();
  // A recording begins with the guest's first touch: the VMM may keep it waiting.
  const bool has_begun = !records() || recorder_.count() > 0;
  const bool may_begin = now - recorder_.started() < limits::kFirstTouchPatience;
  if (!has_begun && may_begin) return await_window_end(limits::kVcpuLookMost);
  const bool can_look = records() && options_.prefetch && owner_.vmm() != 0;
  if (guest_has_run_ || !can_look) return on_guest_seen();
  if (guest_look_.active()) return;
  if (!owner_.begin_errand(guest_look_, {.kind = Errand::Kind::kVcpus})) on_guest_seen();
}

void ServedMemory::on_guest_seen() {
  if (!serving_ || !recorder_.running() || windowing_.active()) return;
  const auto now = Clock::now();
  if (activity_ == VcpuActivity::kHasRun) guest_has_run_ = true;
  const bool is_paused = !guest_has_run_ && activity_ == VcpuActivity::kNotYet;
  const bool may_wait = now - begun_ < limits::kMostPrelude;
  if (is_paused && may_wait) {
    recorder_.note_prelude();
    return await_window_end(limits::kVcpuLookMost);
  }
  // A guest that waits for pages is not idle: it touches more when they have come.
  const bool lasts = now - recorder_.started() < options_.window.most;
  const bool waits = records() && (asked_ > 0 || next_wanted_ < wanted_.size());
  if (waits && lasts && !recorder_.in_prelude()) {
    return await_window_end(std::min(options_.window.idle, options_.window.most));
  }
  if (recorder_.end() <= now) return end_window();
  await_window_end(recorder_.end() - now);
}

void ServedMemory::end_window() {
  if (!recorder_.running()) return;
  const bool recorded = records();
  recorder_.stop();
  if (recorded && serving_) begin_prefetch();
  std::vector<Touch> touches = recorder_.take();
  if (recorder_.in_prelude()) touches.clear();  // of a guest that never ran
  owner_.on_window_end(std::move(touches));
}

}  // namespace thaw
