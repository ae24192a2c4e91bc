#include "faulthandler/shared_memory.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <poll.h>

#include "base/queue_time.h"
#include "faulthandler/slow_calls.h"

namespace thaw {

namespace {

/// Pages shown at once where each would raise a minor fault, 0.3 us each.
constexpr std::uint64_t kShownBlock = 16;

/// Attempts to register what is mapped by then, of a VMM that goes on to unmap.
constexpr unsigned kMostAttempts = 3;
/// Attempts to register regions in ever smaller parts, together about 50 ms; and those before the
/// VMM's maps are looked at, a few milliseconds.
constexpr unsigned kMostParts = 1u << 17;
constexpr unsigned kFirstParts = 1u << 12;

/// Whether memory with no file in memory behind it is at this address. What the VMM has unmapped
/// since (ENOENT) and a page that the file lacks (EFAULT) are none.
bool is_other_memory(const UniqueFd& userfaultfd, HostAddress at) {
  return show_pages(userfaultfd, at, {kPageBytes}).error_number == EINVAL;
}

/// Whether a region is seen to be something else than a file from the region's offset on, which
/// `mappings` are of. Between them the VMM may have unmapped memory since its handoff. REQUIRES:
/// they are in order of address.
bool is_other(const UniqueFd& userfaultfd, const HandoffRegion& region,
              const std::vector<FileRange>& mappings) {
  HostAddress known = region.base;
  const HostAddress end = region.base + region.size;
  for (const auto& [memory, offset] : mappings) {
    if (memory.start + memory.length <= known) continue;
    if (memory.start >= end) break;
    if (memory.start > known && is_other_memory(userfaultfd, known)) return true;
    known = std::max(known, memory.start);
    const std::uint64_t file_offset = offset + (known - memory.start).value;
    if (file_offset != region.offset.value + (known - region.base).value) return true;
    known = memory.start + memory.length;
  }
  return known < end && is_other_memory(userfaultfd, known);
}

}  // namespace

SharedMemory::~SharedMemory() {
  if (attached_) image_.remove(*this);
}

void SharedMemory::prepare_check(std::function<void()> then) {
  then_ = std::move(then);
  if (!owner_.begin_errand(handoff_look_, {.kind = Errand::Kind::kMappings})) {
    std::exchange(then_, nullptr)();
  }
}

Result<void> SharedMemory::check(const UniqueFd& userfaultfd, RemoveEvents events,
                                 const RegionTable& regions) {
  if (events == RemoveEvents::kNone) {
    return fail(ErrorCode::kNoRemoveEvents,
                "a page that the VMM gives back would show the host image without REMOVE events");
  }
  if (!regions.has_small_pages_only()) {
    return fail(ErrorCode::kUnsupported, "huge pages cannot be shared");
  }
  is_proven_ = mappings_.has_value();
  const std::vector<FileRange> mappings =
      std::exchange(mappings_, {}).value_or(std::vector<FileRange>());
  for (const HandoffRegion& region : regions.regions()) {
    if (!is_other(userfaultfd, region, mappings)) continue;
    return fail(ErrorCode::kRegionMismatch,
                "the memory at {:#x} is not the host image from offset {} on, which the VMM of a "
                "shared session maps",
                region.base.value, region.offset.value);
  }
  return {};
}

void SharedMemory::connect() {
  attached_ = true;
  image_.add(*this);
}

void SharedMemory::distrust() {
  if (account_.begin(Clock::now())) owner_.on_memory_slow(kSlow);
}

void SharedMemory::start(UniqueFd userfaultfd, RegionTable regions) {
  record_.keep(regions.regions());
  if (begin(std::move(userfaultfd), std::move(regions)) && !is_proven_) probe();
}

void SharedMemory::probe() {
  const auto now = Clock::now();
  for (const HandoffRegion& region : regions_.regions()) {
    const PageIndex page = page_of(region.offset);
    if (image_.is_present(page)) {
      show(page);
    } else if (waiting_.emplace(page, now).second) {
      wanted_.push_back(page);
    }
  }
  if (!wanted_.empty()) image_.demand(std::exchange(wanted_, {}));
}

void SharedMemory::adopt(UniqueFd userfaultfd) {
  if (!begin(std::move(userfaultfd), RegionTable::recorded(record_.regions()))) return;
  // Who died with the first page given back may not have got there.
  removed_pages_ =
      static_cast<std::uint64_t>(std::ranges::count(record_.states(), PageState::kRemoved));
  if (removed_pages_ > 0) begin_minor_faults();
  if (const auto taken = events_.take_over(userfaultfd_, regions_, *this); !taken) {
    give_up(taken.error().message());
  }
}

bool SharedMemory::begin(UniqueFd userfaultfd, RegionTable regions) {
  userfaultfd_ = std::move(userfaultfd);
  regions_ = std::move(regions);
  serving_ = true;
  if (!image_.usable()) {
    on_spoiled("the image was spoiled before the VM came");
  } else if (const auto made = make_nonblocking(userfaultfd_); !made) {
    give_up(made.error().message());
  } else {
    loop_.poll(userfaultfd_, POLLIN, reading_);
  }
  return !given_up_;
}

void SharedMemory::stop() {
  serving_ = false;
  handoff_look_.cancel();
  parts_look_.cancel();
  waiting_.clear();
  held_back_.clear();
  if (attached_) {
    image_.add_to(at_end_);
    attached_ = false;
    image_.remove(*this);  // from here on it may go
  }
  loop_.cancel(reading_);
  loop_.cancel(retrying_);
}

void SharedMemory::on_events(int result) {
  if (!serving_ || given_up_ || is_busy()) return;
  if (result < 0 || (result & POLLERR) != 0) return give_up("waiting for faults failed");
  drain_events();
  await_events();
}

void SharedMemory::drain_events() {
  if (const auto read = events_.read(userfaultfd_); !read) give_up(read.error().message());
  const auto applied = events_.apply_changes(userfaultfd_, regions_, *this);
  if (!applied) give_up(applied.error().message());
  const auto now = Clock::now();
  bool any = false;
  events_.for_each_fault([&](HostAddress address) {
    any = true;
    if (serving_ && !given_up_) answer_fault(address, now);
  });
  if (any) owner_.on_faults();
  if (!wanted_.empty()) image_.demand(wanted_);
  wanted_.clear();
}

void SharedMemory::await_events() {
  if (!serving_ || given_up_ || is_busy() || reading_.active()) return;
  loop_.poll(userfaultfd_, POLLIN, reading_);
}

void SharedMemory::answer_fault(HostAddress address, Clock::time_point now) {
  ++faults_.total;
  const auto page = regions_.page_at(address);
  if (!page) {
    // What was there has just been moved: who waited has been woken, and faults where it is now.
    if (events_.has_changes()) return;
    return give_up(fmt::format("a fault at {:#x}, outside all regions", address.value));
  }
  const PageState state = image_.state(*page);
  if (is_removed(*page) || state == PageState::kPresent) {
    ++(is_removed(*page) ? faults_.removed : faults_.present);
    return let_on(*page, now);
  }
  const bool comes = state == PageState::kComing || state == PageState::kWanted;
  const bool zero = !image_.snapshot().map.chunk_of(*page).valid();
  ++(zero ? faults_.zero : comes ? faults_.coalesced : faults_.fetched);
  // A thread that is interrupted while it waits raises its fault again.
  if (waiting_.emplace(*page, now).second) wanted_.push_back(*page);
}

bool SharedMemory::on_removed(PageRange pages) {
  if (!has_minor_faults_) begin_minor_faults();
  const auto states = record_.states().subspan(pages.first.value, pages.count.value);
  removed_pages_ += pages.count.value -
                    static_cast<std::uint64_t>(std::ranges::count(states, PageState::kRemoved));
  std::ranges::fill(states, PageState::kRemoved);
  const auto first = waiting_.lower_bound(pages.first);
  const auto end = waiting_.lower_bound(pages.first + pages.count);
  const bool waited = first != end;
  waiting_.erase(first, end);
  return waited;
}

void SharedMemory::begin_minor_faults() {
  has_minor_faults_ = true;
  // Where nothing is mapped any more, or something else is, a region cannot be registered whole.
  // Its parts can be, and all else is not guest memory.
  if (!register_regions(nullptr, kFirstParts)) look_for_parts();
}

void SharedMemory::look_for_parts() {
  ++looks_;
  if (!owner_.begin_errand(parts_look_, {.kind = Errand::Kind::kMappings})) {
    on_parts_seen({.failure = "there is no process"});
  }
}

void SharedMemory::on_parts_seen(const ErrandResult& seen) {
  if (!serving_ || given_up_) return;
  // What the VMM has mapped, however much, is looked at once for all regions.
  const auto registered = register_regions(seen.done() ? &seen.mappings : nullptr, kMostParts);
  if (!registered && seen.done() && looks_ < kMostAttempts) return look_for_parts();
  if (!registered) return on_spoiled(registered.error().message());
  if (!held_back_.empty()) set_retry_timer();
  await_events();
}

Result<void> SharedMemory::register_regions(const std::vector<FileRange>* mappings,
                                            unsigned most_attempts) {
  for (const HandoffRegion& region : regions_.regions()) {
    const AddressRange range{region.base, region.size};
    if (mappings == nullptr) {
      TRY(register_in_halves(range, most_attempts));
      continue;
    }
    for (const auto& [start, length] : parts_in(*mappings, range)) {
      TRY(register_missing_and_minor(userfaultfd_, start, length));
    }
  }
  return {};
}

Result<void> SharedMemory::register_in_halves(AddressRange range, unsigned& attempts_left) {
  if (attempts_left == 0) {
    return fail(ErrorCode::kLimitExceeded, "guest memory has fallen into too many parts");
  }
  --attempts_left;
  const PageCount pages = pages_for(range.length);
  const auto registered = register_missing_and_minor(userfaultfd_, range.start, range.length);
  if (registered || registered.error().error_number() == ENOMEM) return registered;
  if (pages.value < 2) return {};  // nothing is there, or it is not guest memory
  const ByteCount half = bytes_of(PageCount{pages.value / 2});
  TRY(register_in_halves({range.start, half}, attempts_left));
  return register_in_halves({range.start + half, range.length - half}, attempts_left);
}

void SharedMemory::on_present(PageRange pages) {
  if (!serving_ || given_up_) return;
  const PageIndex end = pages.first + pages.count;
  for (auto each = waiting_.lower_bound(pages.first);
       each != waiting_.end() && each->first < end && !given_up_; each = waiting_.erase(each)) {
    let_on(each->first, each->second);
    latency_.record(Clock::now() - each->second);
  }
}

void SharedMemory::let_on(PageIndex page, Clock::time_point since) {
  if (holds_back()) {
    held_back_.emplace(page, HeldBack{since});
    return set_retry_timer();
  }
  return is_removed(page) ? fill_zeros(page) : show(page);
}

void SharedMemory::show(PageIndex page) {
  const HandoffRegion* const region = regions_.find(page);
  if (region == nullptr) {
    ++gone_fills_;
    return;
  }
  const HostAddress address = RegionTable::address_in(*region, page);
  const auto begun = Clock::now();
  settle(show_pages(userfaultfd_, address, {kPageBytes}), page, address);
  if (has_minor_faults_ && !given_up_ && !holds_back()) show_beside(page, *region);
  note_call(Clock::now() - begun);
}

void SharedMemory::show_beside(PageIndex page, const HandoffRegion& region) {
  const PageRange near = RegionTable::pages_of(region);
  const PageIndex first = std::max(near.first, {page.value / kShownBlock * kShownBlock});
  const PageIndex end = std::min(near.first + near.count, first + PageCount{kShownBlock});
  for (PageIndex other = first; other < end; other += PageCount{1}) {
    // A favour: one that fails raises its own fault.
    if (other == page || is_removed(other) || !image_.is_present(other)) continue;
    show_pages(userfaultfd_, RegionTable::address_in(region, other), {kPageBytes});
  }
}

void SharedMemory::fill_zeros(PageIndex page) {
  const HostAddress address = RegionTable::address_in(*regions_.find(page), page);
  const auto begun = Clock::now();
  settle(zero_pages(userfaultfd_, address, {kPageBytes}), page, address);
  note_call(Clock::now() - begun);
}

void SharedMemory::settle(const FillResult& result, PageIndex page, HostAddress address) {
  switch (result.outcome) {
    case FillOutcome::kFilled:
      return;
    case FillOutcome::kExists:
      ++redundant_fills_;
      break;
    case FillOutcome::kRemoving:
      // If the vCPU were woken, it would fault again and again until the VMM has taken the page.
      ++delayed_fills_;
      removing_ = true;
      held_back_.emplace(page, HeldBack{Clock::now()});
      return set_retry_timer();
    case FillOutcome::kRangeGone:
      ++gone_fills_;
      break;
    case FillOutcome::kProcessGone:
      return;  // the pidfd tells
    case FillOutcome::kNoMemory:
      return hold_back(result, page);
    case FillOutcome::kFailed:
      give_up(fmt::format("page {} cannot be shown: {}: is its memory not the host image?",
                          page.value, errno_text(result.error_number)));
      return;
  }
  // Who waits looks again, and if it has to, faults again.
  wake_pages(userfaultfd_, address, {kPageBytes});
}

void SharedMemory::hold_back(const FillResult& result, PageIndex page) {
  const auto now = Clock::now();
  held_back_.emplace(page, HeldBack{now});
  if (!shortage_.active()) {
    owner_.on_memory_short(fmt::format("no memory for guest memory ({}); the guest waits",
                                       errno_name(result.error_number)));
  }
  shortage_.note(result.error_number, now);
  set_retry_timer();
}

void SharedMemory::set_retry_timer() {
  if (retrying_.active() || is_busy()) return;
  loop_.wait(shortage_.active() ? shortage_.pause() : delay_, retrying_);
}

void SharedMemory::on_retry_timer() {
  if (!serving_ || given_up_ || is_busy()) return;
  delay_ = std::min<Nanoseconds>(delay_ * 2, limits::kDelayedMost);
  // The REMOVE that is in the way may still be unread.
  drain_events();
  if (!serving_ || given_up_ || is_busy()) return;
  removing_ = false;
  if (account_.slow()) return begin_calls();
  const auto due = std::exchange(held_back_, {});
  bool hindered = false;
  for (const auto& [page, held] : due) {
    // What is in the way of one is in the way of all; nor is a second slow call made.
    if (!hindered && !account_.slow()) hindered = !try_again(page);
    if (hindered || account_.slow()) held_back_.insert_or_assign(page, held);
  }
  go_on();
}

bool SharedMemory::can_let_on(PageIndex page) {
  const HandoffRegion* const region = regions_.find(page);
  if (region == nullptr) return false;
  if (is_removed(page) || image_.is_present(page)) return true;
  // It could not be poisoned: who waits faults again.
  wake_pages(userfaultfd_, RegionTable::address_in(*region, page), {kPageBytes});
  return false;
}

bool SharedMemory::try_again(PageIndex page) {
  const std::uint64_t failures = shortage_.failures();
  if (!can_let_on(page)) return true;
  is_removed(page) ? fill_zeros(page) : show(page);
  return !removing_ && shortage_.failures() == failures;
}

void SharedMemory::go_on() {
  if (!removing_) delay_ = limits::kDelayedFirst;
  if (held_back_.empty() && shortage_.active()) shortage_.end(Clock::now());
  lose_patience();
  if (!held_back_.empty()) set_retry_timer();
  await_events();
}

void SharedMemory::note_call(Nanoseconds took) {
  if (took <= limits::kFairCall) return;
  if (account_.note(without_queue_time(took), Clock::now())) owner_.on_memory_slow(kSlow);
}

void SharedMemory::begin_calls() {
  const std::size_t most = shortage_.active() ? 1 : limits::kMaxDelayedFills;
  while (calls_.size() < most && !held_back_.empty()) {
    const auto [page, held] = *held_back_.begin();
    held_back_.erase(held_back_.begin());
    if (!can_let_on(page)) continue;
    calls_.push_back({.page = page,
                      .held = held,
                      .address = RegionTable::address_in(*regions_.find(page), page),
                      .zeros = is_removed(page)});
  }
  if (calls_.empty()) return go_on();
  thread_.start();
}

void SharedMemory::make_calls() {
  longest_call_ = make_slow_calls(std::span(calls_), [this](const Call& call) {
    return call.zeros ? zero_pages(userfaultfd_, call.address, {kPageBytes})
                      : show_pages(userfaultfd_, call.address, {kPageBytes});
  });
}

void SharedMemory::on_calls_made() {
  const std::vector<Call> made = std::exchange(calls_, {});
  if (!serving_) return;
  account_.note(longest_call_, Clock::now());
  const std::uint64_t failures = shortage_.failures();
  bool hindered = false;
  for (const Call& call : made) {
    if (given_up_) return;
    if (!hindered) settle(call.result, call.page, call.address);
    hindered = hindered || removing_ || shortage_.failures() != failures;
    if (hindered) held_back_.insert_or_assign(call.page, call.held);
  }
  if (account_.end_if_quiet(Clock::now())) owner_.on_memory_slow(kQuiet);
  go_on();
}

void SharedMemory::lose_patience() {
  if (!shortage_.active()) return;
  const auto late = Clock::now() - memory_patience_;
  std::vector<PageIndex> pages;
  for (auto& [page, held] : held_back_) {
    if (held.since <= late && !std::exchange(held.told, true)) pages.push_back(page);
  }
  for (const PageIndex page : pages) {
    const std::string reason =
        fmt::format("no memory for guest memory ({})", errno_name(shortage_.error_number()));
    if (owner_.on_unservable(page, reason) != Unservable::kPoisoned) continue;
    held_back_.erase(page);
    poison(page);
  }
}

void SharedMemory::give_up(const std::string& reason) {
  given_up_ = true;
  owner_.give_up(reason);
}

void SharedMemory::on_spoiled(const std::string& reason) {
  given_up_ = true;
  owner_.stop_vm(reason);
}

void SharedMemory::on_unservable(PageIndex page, const std::string& reason) {
  if (!waiting_.contains(page)) return;
  if (owner_.on_unservable(page, reason) == Unservable::kPoisoned) poison(page);
}

std::optional<Clock::time_point> SharedMemory::waiting_since() const {
  if (given_up_ || waiting_.empty()) return std::nullopt;
  return std::ranges::min_element(waiting_, {}, [](const auto& each) { return each.second; })
      ->second;
}

void SharedMemory::stop_waiting(Clock::time_point since, const std::string& reason) {
  std::vector<PageIndex> late;
  for (const auto& [page, waits_since] : waiting_) {
    if (waits_since <= since) late.push_back(page);
  }
  for (const PageIndex page : late) on_unservable(page, reason);
}

void SharedMemory::poison(PageIndex page) {
  waiting_.erase(page);
  const HandoffRegion* const region = regions_.find(page);
  if (region == nullptr) return;
  const HostAddress address = RegionTable::address_in(*region, page);
  const FillResult result = poison_pages(userfaultfd_, address, {kPageBytes});
  if (result.outcome == FillOutcome::kFilled) ++poisoned_pages_;
  settle(result, page, address);
}

void SharedMemory::add_to(SessionReport& report) const {
  SessionReport image = at_end_;
  if (attached_) image_.add_to(image);
  report.present_pages = image.present_pages;
  report.prefetch = image.prefetch;
  report.local_pages = image.local_pages;
  report.around_pages = image.around_pages;
  report.around_window = image.around_window;
  report.around_probes = image.around_probes;
  report.around_hits = image.around_hits;
  report.damaged_chunks = image.damaged_chunks;
  report.bytes_received = image.bytes_received;
  report.shared = true;
  report.slow_memory = attached_ && account_.slow();
  report.faults = faults_;
  report.removed_pages = removed_pages_;
  report.poisoned_pages = poisoned_pages_;
  report.redundant_fills = redundant_fills_;
  report.gone_fills = gone_fills_;
  report.delayed_fills = delayed_fills_;
  report.waiting_pages = waiting_.size() + held_back_.size() + calls_.size();
  if (shortage_.active()) report.memory_waiting_pages = held_back_.size() + calls_.size();
  report.short_of = image.short_of;
  report_latency(latency_, report);
}

}  // namespace thaw
