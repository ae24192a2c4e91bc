#include "faulthandler/served_memory.h"

#include <algorithm>

#include <poll.h>

#include "base/limits.h"

namespace thaw {

ServedMemory::ServedMemory(Loop& loop, DemandLink& link, ServeOptions options, MemoryRecord& record,
                           Owner& owner)
    : loop_(loop),
      link_(link),
      options_(std::move(options)),
      record_(record),
      owner_(owner),
      core_(options_.image->map, record_.states(), options_.around),
      recorder_(options_.window, core_.page_count()),
      filled_pages_(core_.present_pages()) {
  const bool any = options_.plan.set != nullptr || options_.plan.hydrate_bytes_per_s > 0;
  if (!options_.prefetch || !any) return;
  Prefetch::Owner& prefetch_owner = *this;  // a private base: make_unique may not convert
  const PageOrigins origins{opener_, options_.image->page_hashes(), options_.local};
  prefetch_ = std::make_unique<Prefetch>(loop_, *options_.prefetch, options_.plan, origins, core_,
                                         room_, prefetch_owner);
}

void ServedMemory::connect() {
  link_.add(*this, options_.image->manifest.snapshot);
  if (prefetch_ != nullptr) prefetch_->begin();
}

void ServedMemory::distrust() {
  if (account_.begin(Clock::now())) become_slow();
}

void ServedMemory::start(UniqueFd userfaultfd, RegionTable regions) {
  record_.keep(regions.regions());
  if (!begin(std::move(userfaultfd), std::move(regions))) return;
  if (options_.window.most > Nanoseconds(0)) {
    begun_ = Clock::now();
    recorder_.start(begun_);
    await_window_end(std::min(options_.window.idle, options_.window.most));
  }
  if (!records()) begin_prefetch();
}

void ServedMemory::adopt(UniqueFd userfaultfd) {
  if (!begin(std::move(userfaultfd), RegionTable::recorded(record_.regions()))) return;
  if (const auto taken = events_.take_over(userfaultfd_, regions_, *this); !taken) {
    return give_up(taken.error().message());
  }
  if (!record_.detached()) begin_prefetch();
}

bool ServedMemory::begin(UniqueFd userfaultfd, RegionTable regions) {
  userfaultfd_ = std::move(userfaultfd);
  regions_ = std::move(regions);
  // All that a fault needs is made here.
  wanted_.reserve(limits::kMaxEventReads * limits::kUserfaultfdEventsPerRead);
  riders_.reserve(limits::kMaxBatchRiders);
  run_ = std::make_unique_for_overwrite<std::array<PlainPage, limits::kMaxBatchRiders>>();
  serving_ = true;
  if (options_.prefetch) {
    room_.begin(options_.prefetch->workers, owner_.vmm());
    Errand errand{.kind = Errand::Kind::kBackingFile, .at = some_addresses()};
    if (!owner_.begin_errand(backing_look_, std::move(errand))) {
      // A host image, which is a memory file of this process.
      on_backing_seen({.is_there = true});
    }
  }
  if (const auto made = make_nonblocking(userfaultfd_); !made) {
    give_up(made.error().message());
    return false;
  }
  loop_.poll(userfaultfd_, POLLIN, reading_);
  return true;
}

std::vector<HostAddress> ServedMemory::some_addresses() const {
  std::vector<HostAddress> addresses;
  for (const HandoffRegion& region : regions_.regions()) {
    if (addresses.size() < limits::kMaxErrandAddresses) addresses.push_back(region.base);
  }
  return addresses;
}

void ServedMemory::on_backing_seen(BackingFile file) {
  room_.set_backing(std::move(file));
  if (!serving_) return;
  room_.look(core_.missing());
  if (std::exchange(prefetch_waits_, false)) begin_prefetch();
}

void ServedMemory::begin_prefetch() {
  // It would soon find no room before its limits are known.
  if (prefetch_ != nullptr && !room_.knows_backing()) {
    prefetch_waits_ = true;
    return;
  }
  if (prefetch_ != nullptr) prefetch_->attach(userfaultfd_, regions_);
}

void ServedMemory::stop() {
  serving_ = false;
  link_.forget(*this);
  if (prefetch_ != nullptr) prefetch_->stop();
  room_.stop();
  guest_look_.cancel();
  backing_look_.cancel();
  end_window();
  delayed_.clear();
  delayed_zeros_.clear();
  for (Operation* operation : {&reading_, &retrying_, &unsticking_, &windowing_}) {
    loop_.cancel(*operation);
  }
}

bool ServedMemory::finished() const {
  return !reading_.active() && !retrying_.active() && !unsticking_.active() &&
         !windowing_.active() && room_.finished() && !thread_.active() &&
         (prefetch_ == nullptr || prefetch_->finished());
}

void ServedMemory::on_events(int result) {
  if (!serving_) return;
  if (result < 0 || (result & POLLERR) != 0) return give_up("waiting for faults failed");
  if (!may_read()) return thread_.active() ? void() : retry_later();
  drain_events();
  retry_delayed();
  ask_for_wanted();
  // Beginning a look takes a lock, for which no fault that is under way shall wait.
  if (asked_ == 0) room_.look_if_wanted(core_.missing());
  await_events();
}

void ServedMemory::await_events() {
  if (!serving_ || given_up_ || thread_.active() || reading_.active()) return;
  loop_.poll(userfaultfd_, POLLIN, reading_);
}

bool ServedMemory::may_read() const {
  // A worker may be as long in a call as the thread. It begins no other one for slow memory.
  const bool waits = account_.slow() && prefetch_ != nullptr && prefetch_->may_be_copying();
  return !thread_.active() && !waits;
}

void ServedMemory::give_up(const std::string& reason) {
  given_up_ = true;
  owner_.give_up(reason);
}

void ServedMemory::drain_events() {
  // From here until what was read has taken effect nobody else puts pages in.
  const auto begun = Clock::now();
  auto reading = prefetch_ != nullptr ? prefetch_->reading() : std::nullopt;
  if (reading) note_call(Clock::now() - begun - limits::kFairGate);
  if (const auto read = events_.read(userfaultfd_); !read) give_up(read.error().message());
  if (reading && events_.has_changes()) reading->note_change();
  const auto applied = events_.apply_changes(userfaultfd_, regions_, *this);
  if (!applied) give_up(applied.error().message());
  reading.reset();
  answer_faults();
}

void ServedMemory::answer_faults() {
  const auto now = Clock::now();
  bool any = false;
  events_.for_each_fault([&](HostAddress address) {
    any = true;
    if (serving_) answer_fault(address, now);
  });
  if (any) owner_.on_faults();
}

void ServedMemory::answer_fault(HostAddress address, Clock::time_point now) {
  if (const auto page = regions_.page_at(address)) return answer_fault(*page, now);
  // What was there has just been moved: who waited has been woken, and faults where it is now.
  if (events_.has_changes()) return;
  give_up(fmt::format("a fault at {:#x}, outside all regions", address.value));
}

void ServedMemory::demand(std::span<const PageIndex> pages) {
  const auto now = Clock::now();
  for (const PageIndex page : pages) {
    if (serving_) answer_fault(page, now);
  }
  ask_for_wanted();
}

void ServedMemory::answer_fault(PageIndex page, Clock::time_point now) {
  const HandoffRegion& region = *regions_.find(page);
  const PageRange unit = unit_of(page, region);
  if (core_.is_missing(unit.first) || core_.state(unit.first) == PageState::kComing) {
    if (records() && recorder_.count() == 0) recorder_.start(now);
    recorder_.note(unit.first, TouchKind::kDemand, now);
  }
  switch (core_.on_fault(unit)) {
    case FaultCore::Need::kFetch: {
      if (unit.count == kHugePages) {
        const auto fill = huge_.begin(unit.first, now);
        if (!fill) return give_up(fill.error().message());
        if (*fill != nullptr) want_huge(**fill);
      } else {
        if (fill_locally(page, region, now)) return;
        want(page, now);
        if (prefetch_ != nullptr) prefetch_->prefer(page);
      }
      return;
    }
    case FaultCore::Need::kZero:
      return fill_zeros({.page = unit.first, .chunk = kNoChunk, .since = now}, region);
    case FaultCore::Need::kWake:
      return fill_again({.page = unit.first, .chunk = kNoChunk, .since = now}, region);
    case FaultCore::Need::kHurry:
      if (prefetch_ != nullptr) prefetch_->hurry(unit.first);
      return;
    case FaultCore::Need::kWait:
      return;
  }
}

PageRange ServedMemory::unit_of(PageIndex page, const HandoffRegion& region) const {
  if (region.page_size.value != kHugePageBytes) return {page, {1}};
  // A region of huge pages begins at a multiple of them in the image, too.
  return {{page.value / kHugePages.value * kHugePages.value}, kHugePages};
}

void ServedMemory::want(PageIndex page, Clock::time_point since) {
  wanted_.push_back({.page = page, .chunk = core_.chunk_of(page), .since = since});
}

void ServedMemory::want_huge(HugeFills::Fill& fill) {
  for (std::uint64_t i = 0; i < kHugePages.value; ++i) {
    const PageIndex page = fill.first + PageCount{i};
    if (!core_.chunk_of(page).valid()) continue;
    ++fill.missing;
    want(page, fill.since);
  }
}

std::span<const WantedPage> ServedMemory::next_wanted() const {
  const auto rest = std::span(wanted_).subspan(next_wanted_);
  // One that was refused goes alone, to a server that has not refused it.
  const auto refused =
      std::ranges::find_if(rest, [](const auto& page) { return page.attempts > 0; });
  const auto before = static_cast<std::size_t>(refused - rest.begin());
  return rest.first(std::min(std::max(before, std::size_t{1}),
                             std::min(rest.size(), std::size_t{limits::kMaxBatchPages})));
}

void ServedMemory::ask_for_wanted() {
  while (serving_ && next_wanted_ < wanted_.size() && link_.has_room(*this)) {
    const std::span<const WantedPage> pages = next_wanted();
    choose_riders(pages);
    link_.request(*this, pages, riders_);
    asked_ += pages.size();
    next_wanted_ += pages.size();
  }
  if (next_wanted_ >= wanted_.size() / 2) {
    wanted_.erase(wanted_.begin(), wanted_.begin() + static_cast<std::ptrdiff_t>(next_wanted_));
    next_wanted_ = 0;
  }
}

void ServedMemory::choose_riders(std::span<const WantedPage> pages) {
  riders_.clear();
  if (records() || gets_no_favours()) return;
  for (const WantedPage& wanted : pages) {
    const HandoffRegion* const region = regions_.find(wanted.page);
    if (region == nullptr || region->page_size.value != kPageBytes || wanted.attempts > 0) continue;
    if (!room_.open()) return;
    const std::size_t before = riders_.size();
    core_.around(wanted.page, RegionTable::pages_of(*region), limits::kMaxBatchRiders - before,
                 [&](PageIndex page) { riders_.push_back({page, core_.chunk_of(page)}); });
    room_.spend(bytes_of({riders_.size() - before}));
  }
}

void ServedMemory::on_room() {
  if (next_wanted_ < wanted_.size()) ask_for_wanted();
}

Result<void> ServedMemory::on_chunk(const WantedPage& wanted, ByteSpan chunk) {
  if (!serving_) {
    --asked_;
    return {};
  }
  bytes_received_ += chunk.size();
  HugeFills::Fill* const huge = huge_.find(wanted.page);
  const auto decoded = opener_.open_chunk(
      chunk, {wanted.page, wanted.chunk}, options_.image->page_hashes(),
      huge != nullptr ? huge->page(wanted.page).first<kPageBytes>() : MutablePageSpan(plain_));
  if (!decoded) {
    ++damaged_chunks_;
    return std::unexpected(decoded.error());
  }
  --asked_;
  if (huge == nullptr) {
    fill(wanted, PageSpan(plain_));
  } else if (--huge->missing == 0) {
    fill_huge(*huge);
  }
  return {};
}

Result<void> ServedMemory::on_rider(const Rider& rider, ByteSpan chunk) {
  if (!serving_) return {};
  bytes_received_ += chunk.size();
  const PageState state = core_.state(rider.page);
  if (state != PageState::kComing && state != PageState::kWanted) return {};
  const auto decoded = opener_.open_chunk(chunk, {rider.page, rider.chunk},
                                          options_.image->page_hashes(), next_in_run(rider.page));
  if (!decoded) {
    ++damaged_chunks_;
    on_left_out(rider);
    fill_run();
    return std::unexpected(decoded.error());
  }
  run_pages_.count += PageCount{1};
  return {};
}

void ServedMemory::on_refused(const WantedPage& wanted, const Error& error, Refusal refusal) {
  --asked_;
  if (!serving_) return;
  switch (refusal) {
    case Refusal::kAskAgain:
      return wanted_.push_back(wanted);
    case Refusal::kForNow:
      return set_aside(wanted);
    case Refusal::kForGood:
      return unservable(wanted, error.message());
  }
}

void ServedMemory::on_left_out(const Rider& rider) {
  if (serving_ && core_.on_left_out(rider.page)) want(rider.page, Clock::now());
}

void ServedMemory::on_batch_end() {
  fill_run();
  ask_for_wanted();
  room_.look_if_wanted(core_.missing());
}

std::uint64_t ServedMemory::filled_pages() const {
  return filled_pages_ + (prefetch_ != nullptr ? prefetch_->filled_pages() : 0);
}

PageCount ServedMemory::filling() const {
  PageCount pages = prefetch_ != nullptr ? prefetch_->filling() : PageCount{0};
  for (const Call& call : calls_) pages += call.unit.count;
  return pages;
}

void ServedMemory::add_to(SessionReport& report) const {
  report.present_pages = core_.present_pages();
  report.faults = core_.faults();
  report.around_pages = around_pages_;
  report.local_pages = local_pages_;
  report.around_window = core_.window().size();
  report.around_probes = core_.window().probes();
  report.around_hits = core_.window().hits();
  report.removed_pages = core_.removed_pages();
  report.redundant_fills = redundant_fills_;
  report.gone_fills = gone_fills_;
  report.delayed_fills = delayed_fills_;
  report.damaged_chunks = damaged_chunks_;
  report.poisoned_pages = poisoned_pages_;
  if (prefetch_ != nullptr) {
    report.prefetch = prefetch_->summary();
    report.damaged_chunks += prefetch_->damaged();
  }
  report.recorded_pages = options_.window_use == WindowUse::kRecord ? recorder_.count() : 0;
  if (serving_) {
    report.slow_memory = account_.slow();
    report.waiting_pages = wanted_.size() - next_wanted_ + asked_ + delayed_.size() +
                           delayed_zeros_.size() + calls_.size() + stuck_.size() + huge_.waiting();
    if (shortage_.active()) report.memory_waiting_pages = delayed_.size() + delayed_zeros_.size();
    if (shortage_.active() || report.prefetch.state == PrefetchState::kShortOfMemory) {
      report.short_of = room_.short_of();
    }
  }
  report.bytes_received = bytes_received_;
  report_latency(latency_, report);
}

}  // namespace thaw
