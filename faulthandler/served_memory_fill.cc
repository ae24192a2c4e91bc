// How pages enter the guest, and what becomes of a fill that does not go through.

#include <algorithm>

#include "faulthandler/served_memory.h"

namespace thaw {

void ServedMemory::fill(const WantedPage& wanted, std::optional<PageSpan> content) {
  if (!core_.takes_content(wanted.page)) content.reset();
  const auto call = call_for(wanted, content);
  if (!call) return;
  if (holds_back()) return delay(wanted, content);
  finish(*call, make_now(*call));
}

std::optional<ServedMemory::Call> ServedMemory::call_for(const WantedPage& wanted,
                                                         std::optional<PageSpan> content) {
  const HandoffRegion* const region = regions_.find(wanted.page);
  if (region == nullptr) {
    note_failure({FillOutcome::kRangeGone, {0}}, {wanted.page, {1}});
    return std::nullopt;
  }
  const PageRange unit = unit_of(wanted.page, *region);
  if (!content) return zeros_for(wanted, *region, unit);
  return Call{.wanted = wanted,
              .unit = unit,
              .address = RegionTable::address_in(*region, wanted.page),
              .tracking = region->tracking,
              .from = *content};
}

std::optional<ServedMemory::Call> ServedMemory::zeros_for(const WantedPage& wanted,
                                                          const HandoffRegion& region,
                                                          PageRange unit) {
  Call call{.wanted = wanted,
            .unit = unit,
            .address = RegionTable::address_in(region, unit.first),
            .tracking = region.tracking};
  if (unit.count != kHugePages) return call;
  const auto zeros = huge_.zeros();
  if (zeros) {
    call.from = *zeros;
    return call;
  }
  give_up(fmt::format("filling page {} failed: {}", unit.first.value, zeros.error().message()));
  return std::nullopt;
}

FillResult ServedMemory::make(const UniqueFd& userfaultfd, const Call& call) {
  if (call.from.empty()) return zero_pages(userfaultfd, call.address, bytes_of(call.unit.count));
  return copy_pages(userfaultfd, call.address, call.from, Waiters::kWake, call.tracking);
}

FillResult ServedMemory::make_now(const Call& call) {
  const auto begun = Clock::now();
  const FillResult result = make(userfaultfd_, call);
  note_call(Clock::now() - begun);
  return result;
}

void ServedMemory::finish(const Call& call, const FillResult& result) {
  if (result.outcome == FillOutcome::kNoMemory) note_shortage(result);
  if (is_hindered(result) && call.huge != nullptr) {
    ++delayed_fills_;
    return retry_later();
  }
  if (is_hindered(result)) {
    const bool is_page = call.from.size() == kPageBytes;
    return delay(call.wanted,
                 is_page ? std::optional(call.from.first<kPageBytes>()) : std::nullopt);
  }
  settle(result, call.address, call.unit, call.wanted.since);
  if (call.huge != nullptr) end_huge(*call.huge);
}

void ServedMemory::settle(const FillResult& result, HostAddress address, PageRange unit,
                          Clock::time_point since) {
  const bool there = result.outcome == FillOutcome::kExists;
  if (there) ++redundant_fills_;
  // Who waits looks again; and if the memory is gone, goes on from here.
  if (result.outcome != FillOutcome::kFilled) {
    wake_pages(userfaultfd_, address, bytes_of(unit.count));
  }
  filled_pages_ += pages_for(result.done).value;
  if (result.outcome == FillOutcome::kFilled && shortage_.active()) end_shortage();
  if (!there && result.outcome != FillOutcome::kFilled) return note_failure(result, unit);
  note_filled(unit);
  latency_.record(Clock::now() - since);
}

void ServedMemory::note_filled(PageRange pages) {
  for (std::uint64_t i = 0; i < pages.count.value; ++i) {
    core_.on_filled(pages.first + PageCount{i});
  }
  if (pages.count.value > 0) owner_.on_present(pages);
}

void ServedMemory::fill_zeros(const WantedPage& wanted, const HandoffRegion& region) {
  if (!core_.takes_content(wanted.page) || region.page_size.value != kPageBytes || records() ||
      gets_no_favours() || !room_.open_for_zeros()) {
    return fill(wanted, std::nullopt);
  }
  const PageRange zeros = core_.zeros_around(wanted.page, RegionTable::pages_of(region));
  const FillResult result = make_now({.wanted = wanted,
                                      .unit = zeros,
                                      .address = RegionTable::address_in(region, zeros.first),
                                      .from = {}});
  filled_pages_ += pages_for(result.done).value;
  note_filled({zeros.first, pages_for(result.done)});
  if (result.outcome != FillOutcome::kFilled) return fill(wanted, std::nullopt);
  around_pages_ += zeros.count.value - 1;
  room_.spend_zeros(bytes_of(zeros.count));
  latency_.record(Clock::now() - wanted.since);
}

void ServedMemory::fill_again(const WantedPage& wanted, const HandoffRegion& region) {
  const PageRange unit = unit_of(wanted.page, region);
  if (holds_back()) return delay(wanted, std::nullopt);
  const auto call = zeros_for(wanted, region, unit);
  if (!call) return;
  const FillResult result = make_now(*call);
  switch (result.outcome) {
    case FillOutcome::kExists:
      return wake_pages(userfaultfd_, call->address, bytes_of(unit.count));
    case FillOutcome::kFilled:
      core_.on_remove(unit.first, unit.count);
      return;
    case FillOutcome::kNoMemory:
      note_shortage(result);
      return delay(wanted, std::nullopt);
    case FillOutcome::kRemoving:
      return delay(wanted, std::nullopt);
    default:
      return note_failure(result, unit);
  }
}

std::optional<PageSpan> ServedMemory::find_locally(PageIndex page) {
  if (options_.local == nullptr) return std::nullopt;
  return opener_.find(*options_.local, {page, core_.chunk_of(page)}, options_.image->page_hashes());
}

bool ServedMemory::fill_locally(PageIndex page, const HandoffRegion& region,
                                Clock::time_point since) {
  const auto content = find_locally(page);
  if (!content) return false;
  ++local_pages_;
  fill({.page = page, .chunk = core_.chunk_of(page), .since = since}, content);
  if (records() || gets_no_favours() || !room_.open()) return true;
  core_.around(page, RegionTable::pages_of(region), limits::kMaxBatchRiders, [&](PageIndex other) {
    const auto beside = find_locally(other);
    if (!beside) return static_cast<void>(core_.on_left_out(other));
    std::ranges::copy(*beside, next_in_run(other).begin());
    run_pages_.count += PageCount{1};
    ++local_pages_;
    room_.spend({kPageBytes});
  });
  fill_run();
  return true;
}

MutablePageSpan ServedMemory::next_in_run(PageIndex page) {
  const PageIndex next = run_pages_.first + run_pages_.count;
  if (page != next || regions_.find(page) != regions_.find(run_pages_.first)) {
    fill_run();
    run_pages_ = {page, {0}};
  }
  return (*run_)[run_pages_.count.value];
}

void ServedMemory::fill_run() {
  PageRange rest = std::exchange(run_pages_, {});
  const auto done = [&](PageCount pages) {
    note_filled({rest.first, pages});
    rest = {rest.first + pages, rest.count - pages};
  };
  const PageIndex first = rest.first;
  while (rest.count.value > 0) {
    const HandoffRegion* const region = regions_.find(rest.first);
    const std::size_t at = (rest.first - first).value;
    const FillResult result =
        region == nullptr   ? FillResult{FillOutcome::kRangeGone, {0}}
        : gets_no_favours() ? FillResult{FillOutcome::kNoMemory, {0}}
                            : copy_in(*region, rest.first,
                                      as_bytes(std::span(*run_).subspan(at, rest.count.value)));
    around_pages_ += pages_for(result.done).value;
    filled_pages_ += pages_for(result.done).value;
    done(pages_for(result.done));
    if (result.outcome == FillOutcome::kFilled) return;
    if (result.outcome == FillOutcome::kExists) {
      ++redundant_fills_;
      wake_pages(userfaultfd_, RegionTable::address_in(*region, rest.first), {kPageBytes});
      done({1});
      continue;
    }
    // Those that somebody waits for by now are asked for again; the others were a favour.
    for (std::uint64_t i = 0; i < rest.count.value; ++i) {
      const PageIndex page = rest.first + PageCount{i};
      on_left_out({page, core_.chunk_of(page)});
    }
    if (result.outcome == FillOutcome::kNoMemory) room_.note_refusal();
    if (result.outcome != FillOutcome::kRemoving) note_failure(result, {rest.first, {0}});
    return;
  }
}

void ServedMemory::fill_huge(HugeFills::Fill& fill) {
  if (holds_back()) return retry_later();
  const auto call = call_for(fill);
  if (call) finish(*call, make_now(*call));
}

std::optional<ServedMemory::Call> ServedMemory::call_for(HugeFills::Fill& fill) {
  const PageRange unit{fill.first, kHugePages};
  const WantedPage wanted{.page = fill.first, .chunk = kNoChunk, .since = fill.since};
  const HandoffRegion* const region = regions_.find(fill.first);
  if (region == nullptr) {
    note_failure({FillOutcome::kRangeGone, {0}}, unit);
    end_huge(fill);
    return std::nullopt;
  }
  auto call = zeros_for(wanted, *region, unit);
  if (!call) return std::nullopt;
  if (core_.takes_content(fill.first)) call->from = fill.buffer.bytes();
  call->huge = &fill;
  return call;
}

void ServedMemory::end_huge(HugeFills::Fill& fill) {
  huge_.end(fill);
  const auto next = huge_.begin_next();
  if (!next) return give_up(next.error().message());
  if (*next != nullptr) want_huge(**next);
}

FillResult ServedMemory::copy_in(const HandoffRegion& region, PageIndex first, ByteSpan content) {
  return make_now({.wanted = {},
                   .unit = {first, pages_for({content.size()})},
                   .address = RegionTable::address_in(region, first),
                   .tracking = region.tracking,
                   .from = content});
}

void ServedMemory::note_failure(const FillResult& result, PageRange unit) {
  if (result.outcome == FillOutcome::kRangeGone) {
    ++gone_fills_;
    core_.on_gone(unit);
  }
  if (result.outcome == FillOutcome::kFailed) {
    give_up(fmt::format("filling page {} failed: {}", unit.first.value,
                        errno_text(result.error_number)));
  }
  // kProcessGone: the pidfd tells.
}

void ServedMemory::delay(const WantedPage& wanted, std::optional<PageSpan> content) {
  ++delayed_fills_;
  if (!content) {
    delayed_zeros_.emplace(wanted.page, wanted.since);
  } else if (delayed_.size() >= limits::kMaxDelayedFills) {
    // Too much to keep: its chunk is asked for again.
    return gets_no_favours() ? set_aside(wanted) : wanted_.push_back(wanted);
  } else {
    DelayedFill& later = delayed_.emplace_back(DelayedFill{wanted, nullptr});
    later.content = std::make_unique_for_overwrite<PlainPage>();
    std::ranges::copy(*content, later.content->begin());
  }
  retry_later();
}

void ServedMemory::retry_later() {
  if (!retrying_.active()) loop_.wait(shortage_.active() ? shortage_.pause() : delay_, retrying_);
}

void ServedMemory::retry_delayed() {
  if (!serving_ || holds_back()) return;
  const std::uint64_t failures = shortage_.failures();
  std::vector<DelayedFill> due = std::move(delayed_);
  delayed_.clear();
  for (DelayedFill& later : due) {
    if (!serving_) return;
    // Where there is no memory for one there is none for the others.
    if (shortage_.failures() != failures) {
      delayed_.push_back(std::move(later));
      continue;
    }
    fill(later.wanted, PageSpan(*later.content));
  }
  bool removing = !delayed_.empty();
  for (std::size_t i = 0; serving_ && i < limits::kMaxDelayedFills && !delayed_zeros_.empty() &&
                          shortage_.failures() == failures;
       ++i) {
    const auto [page, since] = *delayed_zeros_.begin();
    delayed_zeros_.erase(delayed_zeros_.begin());
    fill({.page = page, .chunk = kNoChunk, .since = since}, std::nullopt);
    // What is in the way of one is in the way of all.
    removing = removing || delayed_zeros_.contains(page);
    if (removing) break;
  }
  for (HugeFills::Fill& later : huge_.fills()) {
    if (shortage_.failures() != failures) break;
    if (serving_ && later.active && later.missing == 0) fill_huge(later);
  }
  if (!removing) delay_ = limits::kDelayedFirst;
}

void ServedMemory::on_retry_timer() {
  if (!serving_) return;
  if (thread_.active()) return;  // after which it goes on
  delay_ = std::min<Nanoseconds>(delay_ * 2, limits::kDelayedMost);
  if (!may_read()) return retry_later();
  // The REMOVE that is in the way may still be unread.
  if (!given_up_) drain_events();
  if (account_.slow()) return begin_calls();
  attempts_ = true;
  retry_delayed();
  attempts_ = false;
  go_on();
}

void ServedMemory::go_on() {
  lose_patience();
  ask_for_wanted();
  await_events();
  const auto waits = [](const HugeFills::Fill& fill) { return fill.active && fill.missing == 0; };
  if (serving_ && (has_delayed() || std::ranges::any_of(huge_.fills(), waits))) retry_later();
}

}  // namespace thaw
