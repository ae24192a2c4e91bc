// Memory on which system calls take long, as its VMM decides.

#include <algorithm>

#include "base/queue_time.h"
#include "faulthandler/served_memory.h"
#include "faulthandler/slow_calls.h"

namespace thaw {

void ServedMemory::note_call(Nanoseconds took) {
  if (took <= limits::kFairCall) return;
  if (account_.note(without_queue_time(took), Clock::now())) become_slow();
}

void ServedMemory::become_slow() {
  room_.close();
  owner_.on_memory_slow(kSlow);
}

void ServedMemory::begin_calls() {
  const std::size_t most = shortage_.active() ? 1 : limits::kMaxDelayedFills;
  std::vector<DelayedFill> due = std::move(delayed_);
  delayed_.clear();
  for (DelayedFill& later : due) {
    if (calls_.size() == most) {
      delayed_.push_back(std::move(later));
    } else if (auto call = call_for(later.wanted, core_.takes_content(later.wanted.page)
                                                      ? std::optional(PageSpan(*later.content))
                                                      : std::nullopt)) {
      call->kept = std::move(later.content);
      calls_.push_back(*std::move(call));
    }
  }
  while (calls_.size() < most && !delayed_zeros_.empty() && serving_) {
    const auto [page, since] = *delayed_zeros_.begin();
    delayed_zeros_.erase(delayed_zeros_.begin());
    auto call = call_for({.page = page, .chunk = kNoChunk, .since = since}, std::nullopt);
    if (call) calls_.push_back(*std::move(call));
  }
  for (HugeFills::Fill& fill : huge_.fills()) {
    if (calls_.size() == most || !serving_) break;
    if (!fill.active || fill.missing > 0) continue;
    if (auto call = call_for(fill)) calls_.push_back(*std::move(call));
  }
  if (!serving_) return calls_.clear();
  if (calls_.empty()) return go_on();
  thread_.start();
}

void ServedMemory::make_calls() {
  longest_call_ = make_slow_calls(std::span(calls_),
                                  [this](const Call& call) { return make(userfaultfd_, call); });
}

void ServedMemory::on_calls_made() {
  if (!serving_ || record_.detached()) {
    calls_.clear();
    return await_events();
  }
  account_.note(longest_call_, Clock::now());
  const bool removing = std::ranges::any_of(
      calls_, [](const Call& call) { return call.result.outcome == FillOutcome::kRemoving; });
  // Those that are not finished yet still count as filling().
  while (serving_ && !calls_.empty()) {
    const Call call = std::move(calls_.back());
    calls_.pop_back();
    finish(call, call.result);
  }
  calls_.clear();
  if (!removing) delay_ = limits::kDelayedFirst;
  look_if_quiet();
  go_on();
}

void ServedMemory::look_if_quiet() {
  if (thread_.active() || !account_.end_if_quiet(Clock::now())) return;
  room_.reopen();
  owner_.on_memory_slow(kQuiet);
}

}  // namespace thaw
