#include "faulthandler/prefetch.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace thaw {

namespace {

/// A pack is asked for when at least this share of its pages is missing: less is cheaper on demand.
constexpr std::size_t kWorthwhileShare = 4;
/// Until room for decompressed pages is looked for again.
constexpr std::chrono::milliseconds kBufferPause{10};

/// Where a piece stands among all: classes in turn, in each of them zero pages before packs.
std::size_t order_of(TouchClass when, bool zeros, std::size_t number) {
  return (static_cast<std::size_t>(when) * 2 + (zeros ? 0 : 1)) << 32 | number;
}

}  // namespace

Prefetch::Prefetch(Loop& loop, PrefetchService service, PrefetchPlan plan, PageOrigins origins,
                   FaultCore& core, MemoryRoom& room, Owner& owner)
    : loop_(loop),
      service_(service),
      plan_(std::move(plan)),
      origins_(origins),
      core_(core),
      room_(room),
      owner_(owner) {
  if (plan_.set == nullptr) return;
  packs_.resize(plan_.set->packs().size());
  summary_.set_pages = plan_.set->page_count();
}

void Prefetch::begin() {
  if (plan_.set != nullptr) state_ = PrefetchState::kStreaming;
  announced_ = true;
  service_.link.add(*this);
  ask_more();
}

void Prefetch::attach(const UniqueFd& userfaultfd, const RegionTable& regions) {
  if (!regions.has_small_pages_only()) {
    give_up("guest memory has huge pages, which come on demand alone");
    for (const auto& job : jobs_) release(*job);
    return stop();
  }
  userfaultfd_ = &userfaultfd;
  regions_ = &regions;
  rest_due_ = Clock::now();
  if (plan_.set != nullptr) {
    for (const PrefetchSet::Zeros& zeros : plan_.set->zeros()) {
      add_zeros(zeros.ranges, order_of(zeros.when, true, 0));
    }
  }
  // What has been decompressed by now goes in at once, in order.
  std::vector<PrefetchJob*> ready;
  for (const auto& job : jobs_) {
    if (job->ready && !job->in_pool) ready.push_back(job.get());
  }
  std::ranges::sort(ready, {}, &PrefetchJob::order);
  for (PrefetchJob* const job : ready) issue(*job);
  ask_more();
}

PrefetchJob& Prefetch::add_job(PrefetchJob::Content content, std::size_t order) {
  PrefetchJob::Owner& owner = *this;  // a private base: make_unique may not convert
  PrefetchJob& job = *jobs_.emplace_back(std::make_unique<PrefetchJob>(owner, content));
  job.order = order;
  job.hashes = origins_.hashes;
  job.ready = content == PrefetchJob::Content::kZeros;
  if (job.ready) return job;
  job.plain = service_.buffers.take();
  ++buffers_taken_;
  return job;
}

bool Prefetch::may_take_buffer() {
  const bool has_vm = userfaultfd_ != nullptr;
  const std::size_t most =
      has_vm ? limits::kMaxServingPlainBuffers : limits::kMaxSessionPlainBuffers;
  if (buffers_taken_ >= most) return false;  // one comes back with each job that is done
  if (service_.buffers.has_room(has_vm)) return true;
  // Those that come back are other sessions', whose jobs tell this one nothing.
  if (has_vm) pause(kBufferPause);
  return false;
}

void Prefetch::ask_more() {
  if (stopped_ || starved_) return;
  while (service_.link.has_room() && may_take_buffer() && (ask_for_pack() || ask_for_rest())) {
  }
  check_done();
}

std::optional<std::size_t> Prefetch::take_pack() {
  while (state_ == PrefetchState::kStreaming && !all_taken()) {
    std::size_t next = next_pack_;
    if (sooner_ > 0) {
      const auto found = std::ranges::find(packs_, PackTurn::kSooner);
      next = static_cast<std::size_t>(found - packs_.begin());
      --sooner_;
    } else if (packs_[next_pack_++] == PackTurn::kTaken) {
      continue;
    }
    packs_[next] = PackTurn::kTaken;
    const auto& pages = plan_.set->packs()[next].pages;
    const auto missing = static_cast<std::size_t>(std::ranges::count_if(
        pages, [this](const PackPage& page) { return core_.is_missing(page.page); }));
    if (missing * kWorthwhileShare >= pages.size()) return next;
  }
  return std::nullopt;
}

bool Prefetch::ask_for_pack() {
  const auto number = take_pack();
  if (!number) return false;
  const PrefetchSet::Pack& pack = plan_.set->packs()[*number];
  const std::size_t order = order_of(pack.when, false, *number);
  if (PrefetchJob* const local = add_local_job(pack.pages, order)) {
    const auto left = std::ranges::count_if(
        pack.pages, [this](const PackPage& page) { return core_.is_missing(page.page); });
    issue(*local);
    // A few pages are cheaper on demand.
    if (static_cast<std::size_t>(left) * kWorthwhileShare < pack.pages.size()) return true;
    if (!may_take_buffer()) {
      packs_[*number] = PackTurn::kSooner;
      ++sooner_;
      return false;
    }
  }
  PrefetchJob& job = add_job(PrefetchJob::Content::kPack, order);
  job.pack =
      PackId{plan_.set->snapshot(), plan_.set->generation(), static_cast<std::uint32_t>(*number)};
  job.pages = pack.pages;
  claim(job);
  service_.link.request_pack(*this, job, pack.bytes);
  return true;
}

PrefetchJob* Prefetch::add_local_job(const std::vector<PackPage>& pages, std::size_t order) {
  if (origins_.local == nullptr) return nullptr;
  PrefetchJob* job = nullptr;
  for (const PackPage& page : pages) {
    if (!core_.is_missing(page.page)) continue;
    const auto content = origins_.opener.find(*origins_.local, page, origins_.hashes);
    if (!content) continue;
    if (job == nullptr) job = &add_job(PrefetchJob::Content::kChunks, order);
    std::ranges::copy(*content, job->plain.get() + job->pages.size() * kPageBytes);
    job->pages.push_back(page);
  }
  if (job == nullptr) return nullptr;
  job->ready = true;
  claim(*job);
  return job;
}

void Prefetch::on_prefetched(PrefetchJob& job, ByteSpan sealed) {
  if (job.content() == PrefetchJob::Content::kPack) summary_.bytes += sealed.size();
  job.sealed = sealed;
  job.kept_buffer = service_.link.keep_buffer();
  issue(job);
}

void Prefetch::on_refused(PrefetchJob& job, const Error& error) {
  if (job.is_rest) {
    note_rest_failure(error);
  } else {
    give_up(error.message());
  }
  drop(job);
}

void Prefetch::on_lost(PrefetchJob& job) {
  if (job.pack) {
    packs_[job.pack->number] = PackTurn::kSooner;
    ++sooner_;
  }
  drop(job);
}

void Prefetch::prefer(PageIndex page) {
  if (state_ != PrefetchState::kStreaming) return;
  const auto pack = plan_.set->pack_of(page);
  if (!pack || packs_[*pack] != PackTurn::kInOrder) return;
  packs_[*pack] = PackTurn::kSooner;
  ++sooner_;
}

PrefetchJob* Prefetch::job_of(PageIndex page) {
  const auto found = std::ranges::find_if(jobs_, [page](const auto& job) {
    return std::ranges::binary_search(job->pages, page, {}, &PackPage::page);
  });
  return found != jobs_.end() ? found->get() : nullptr;
}

void Prefetch::hurry(PageIndex page) {
  PrefetchJob* const job = job_of(page);
  if (job == nullptr) return;
  if (!job->is_rest) ++summary_.late_pages;
  if (!job->awaited_since) job->awaited_since = Clock::now();
  if (job->in_pool) {
    service_.workers.hurry(*job);
  } else if (!lateness_.active()) {
    loop_.wait(limits::kLatePatience, lateness_);
  }
}

void Prefetch::on_late_timer() {
  if (stopped_) return;
  const auto now = Clock::now();
  std::vector<PageIndex> late;
  std::optional<Clock::time_point> next;
  for (const auto& job : jobs_) {
    if (!job->awaited_since || job->in_pool) continue;
    const auto due = *job->awaited_since + limits::kLatePatience;
    if (due > now) {
      next = std::min(next.value_or(due), due);
      continue;
    }
    job->awaited_since.reset();
    for (std::size_t i = 0; i < job->pages.size(); ++i) {
      const PageIndex page = job->pages[i].page;
      if (!job->own[i] || core_.state(page) != PageState::kWanted) continue;
      job->own.reset(i);
      late.push_back(page);
    }
  }
  if (next) loop_.wait(*next - now, lateness_);
  if (!late.empty()) owner_.want_on_demand(late);
}

void Prefetch::claim(PrefetchJob& job) {
  for (std::size_t i = 0; i < job.pages.size(); ++i) {
    const PageIndex page = job.pages[i].page;
    if (!core_.is_missing(page)) continue;
    core_.on_coming(page);
    job.own.set(i);
  }
}

std::vector<PageIndex> Prefetch::release(PrefetchJob& job) {
  std::vector<PageIndex> wanted;
  for (std::size_t i = 0; i < job.pages.size(); ++i) {
    const PageIndex page = job.pages[i].page;
    if (job.own[i] && core_.on_left_out(page)) wanted.push_back(page);
  }
  job.own.reset();
  return wanted;
}

PrefetchJob& Prefetch::add_zeros(std::vector<PageRange> ranges, std::size_t order) {
  PrefetchJob& job = add_job(PrefetchJob::Content::kZeros, order);
  job.zeros = std::move(ranges);
  return job;
}

void Prefetch::add_run(PrefetchJob& job, PageIndex page, std::size_t place, std::size_t most) {
  if (!job.runs.empty()) {
    PrefetchJob::Run& last = job.runs.back();
    const bool next = last.first + last.count == page && last.place + last.count.value == place;
    if (next && last.count.value < most && regions_->find(page) == regions_->find(last.first)) {
      last.count += PageCount{1};
      return;
    }
  }
  const HandoffRegion* const region = regions_->find(page);
  if (region == nullptr) return;
  job.runs.push_back({.first = page,
                      .count = {1},
                      .address = RegionTable::address_in(*region, page),
                      .tracking = region->tracking,
                      .place = place,
                      .present = {0},
                      .filled = {0}});
}

void Prefetch::plan_runs(PrefetchJob& job) {
  job.runs.clear();
  for (std::size_t i = 0; i < job.pages.size(); ++i) {
    const PageIndex page = job.pages[i].page;
    if (core_.is_awaited(page)) add_run(job, page, i, limits::kMaxCopyPages);
  }
  for (const PageRange range : job.zeros) {
    for (std::uint64_t i = 0; i < range.count.value; ++i) {
      const PageIndex page = range.first + PageCount{i};
      if (core_.is_missing(page)) add_run(job, page, page.value, limits::kMaxZeroPages);
    }
  }
}

void Prefetch::issue(PrefetchJob& job) {
  if (userfaultfd_ != nullptr) {
    plan_runs(job);
    if (job.ready && (job.runs.empty() || job.attempts >= limits::kMaxPrefetchAttempts)) {
      return drop(job);
    }
    ++job.attempts;
    job.userfaultfd = userfaultfd_;
    job.gate = &gate_;
    job.room = &room_;
    job.decided = gate_.epoch();
  }
  job.in_pool = true;
  ++in_pool_;
  service_.workers.add(job);
  if (job.awaited_since) service_.workers.hurry(job);
}

void Prefetch::on_job_done(PrefetchJob& job) {
  for (const PrefetchJob::Run& run : job.runs) filled_pages_ += run.filled.value;
  job.in_pool = false;
  --in_pool_;
  if (job.kept_buffer) service_.link.let_go(*std::exchange(job.kept_buffer, std::nullopt));
  job.sealed = {};
  if (stopped_) return drop(job);
  if (!job.decoded) {
    ++damaged_;
    if (service_.link.note_damage(job)) {
      on_lost(job);
      return ask_more();
    }
    if (job.is_rest) {
      note_rest_failure(job.decoded.error());
    } else {
      log_warning(LogKind("prefetch", job.decoded.error()), "prefetch: {}",
                  job.decoded.error().message());
    }
    drop(job);
    return ask_more();
  }
  if (!job.ready && job.content() == PrefetchJob::Content::kPack) ++summary_.packs;
  if (!job.ready && job.is_rest) note_rest_success();
  job.ready = true;
  for (const PrefetchJob::Run& run : job.runs) settle(job, run);
  if (job.no_room) return starve(job);
  // What a REMOVE was in the way of goes in now; a job without a VM waits for one.
  if (userfaultfd_ != nullptr) issue(job);
  ask_more();
}

void Prefetch::settle(PrefetchJob& job, const PrefetchJob::Run& run) {
  std::optional<PageRange> waited;  // from the first page that somebody waits for to the last
  PageCount asked{0};
  for (std::uint64_t i = 0; i < run.present.value; ++i) {
    const PageIndex page = run.first + PageCount{i};
    if (core_.state(page) == PageState::kWanted) {
      if (!waited) waited = PageRange{page, {0}};
      waited->count = page - waited->first + PageCount{1};
      asked += PageCount{1};
    }
    core_.on_filled(page);
  }
  if (waited) {
    wake_pages(*userfaultfd_, run.address + bytes_of(waited->first - run.first),
               bytes_of(waited->count));
  }
  (job.is_rest ? summary_.hydrated_pages : summary_.prefetched_pages) +=
      (run.filled - std::min(run.filled, asked)).value;
  if (run.present.value > 0) owner_.on_prefetched({run.first, run.present});
  // Who waits in memory that is gone finds out on demand.
  if (run.outcome == FillOutcome::kRangeGone) job.attempts = limits::kMaxPrefetchAttempts;
  if (run.outcome == FillOutcome::kNoMemory) room_.note_refusal();
  if (run.outcome == FillOutcome::kFailed) owner_.on_prefetch_failed(run.error_number);
}

void Prefetch::drop(PrefetchJob& job) {
  const std::vector<PageIndex> wanted = release(job);
  if (job.plain != nullptr) {
    service_.buffers.give_back(std::move(job.plain));
    --buffers_taken_;
  }
  std::erase_if(jobs_, [&](const auto& own) { return own.get() == &job; });
  if (!wanted.empty()) owner_.want_on_demand(wanted);
}

void Prefetch::give_up(const std::string& reason) {
  if (state_ != PrefetchState::kStreaming) return;
  log_warning("the working set of snapshot {} is not brought on: {}", plan_.set->snapshot().value,
              reason);
  state_ = PrefetchState::kStopped;
}

void Prefetch::starve(PrefetchJob& job) {
  if (!std::exchange(starved_, true)) owner_.on_prefetch_starved();
  on_lost(job);
  pause(limits::kRoomPause);
}

void Prefetch::on_pause_end() {
  if (starved_ && !stopped_) return room_.look(core_.missing());
  ask_more();
}

void Prefetch::on_room_seen() {
  if (!starved_ || stopped_) return;
  if (!room_.open()) return pause(limits::kRoomPause);
  starved_ = false;
  ask_more();
}

void Prefetch::check_done() {
  if (state_ == PrefetchState::kStreaming && userfaultfd_ != nullptr && all_taken() &&
      std::ranges::all_of(jobs_, [](const auto& job) { return job->is_rest; })) {
    state_ = PrefetchState::kDone;
  }
  const bool asks = state_ == PrefetchState::kStreaming ||
                    (plan_.hydrate_bytes_per_s > 0 && !complete_) || !jobs_.empty();
  if (asks || !announced_) return;
  announced_ = false;
  service_.link.forget(*this);
}

void Prefetch::stop() {
  if (stopped_) return;
  stopped_ = true;
  CopyGate::Reading(gate_).note_change();
  service_.link.forget(*this);
  loop_.cancel(pacing_);
  loop_.cancel(lateness_);
  for (std::size_t i = jobs_.size(); i-- > 0;) {
    PrefetchJob& job = *jobs_[i];
    if (!job.in_pool) {
      drop(job);
    } else if (service_.workers.take_back(job)) {
      on_job_done(job);
    }
  }
}

bool Prefetch::finished() const {
  return stopped_ && jobs_.empty() && !pacing_.active() && !lateness_.active();
}

std::optional<CopyGate::Reading> Prefetch::reading() {
  if (!may_be_copying()) return std::nullopt;
  return std::optional<CopyGate::Reading>(std::in_place, gate_);
}

PageCount Prefetch::filling() const {
  PageCount pages{0};
  for (const auto& job : jobs_) {
    if (!job->in_pool) continue;
    for (const PrefetchJob::Run& run : job->runs) pages += run.count;
  }
  return pages;
}

PrefetchSummary Prefetch::summary() const {
  PrefetchSummary summary = summary_;
  const bool pending = state_ == PrefetchState::kStreaming || plan_.hydrate_bytes_per_s > 0;
  summary.state = starved_ && pending && !room_.closed() ? PrefetchState::kShortOfMemory : state_;
  return summary;
}

}  // namespace thaw
