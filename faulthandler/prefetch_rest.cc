// After the working set: the rest of memory, in the background at a bounded rate.

#include <algorithm>

#include "base/log.h"
#include "faulthandler/prefetch.h"

namespace thaw {

namespace {

/// Pages looked at in one turn of the loop.
constexpr std::uint64_t kMostLooks = 1u << 16;
/// Zero pages of one job.
constexpr std::uint64_t kMostZeros = 4096;
/// Jobs of one session with the workers at a time.
constexpr std::size_t kMostJobs = 8;
constexpr std::chrono::milliseconds kShortPause{1};
/// Smaller batches after each that failed, so that a chunk that cannot be had is soon asked for
/// alone.
constexpr std::size_t kBatchDivisor = 8;
constexpr double kNanoseconds = 1e9;

}  // namespace

bool Prefetch::ask_for_rest() {
  if (plan_.hydrate_bytes_per_s == 0 || userfaultfd_ == nullptr || complete_) return false;
  if (in_pool_ >= kMostJobs) return false;  // there will be room when one is done
  const auto now = Clock::now();
  if (now < rest_due_) {
    pause(rest_due_ - now);
    return false;
  }

  const PageIndex end{std::min(rest_.value + kMostLooks, core_.page_count().value)};
  std::vector<PackPage> pages;
  std::vector<PageRange> zeros;
  std::uint64_t zero_count = 0;
  while (rest_ < end && pages.size() < rest_batch_ && zero_count < kMostZeros) {
    const PageIndex page = rest_;
    rest_ += PageCount{1};
    if (comes_in_another_turn(page) || !core_.is_missing(page)) continue;
    if (const ChunkId chunk = core_.chunk_of(page); chunk.valid()) {
      pages.push_back({page, chunk});
    } else if (plan_.rest_zeros == ZeroPages::kToo) {
      append_page(zeros, page);
      ++zero_count;
    }
  }
  if (!zeros.empty()) {
    PrefetchJob& job = add_zeros(std::move(zeros), 0);
    job.is_rest = true;
    issue(job);
  }
  if (PrefetchJob* const local = add_local_job(pages, 0)) {
    local->is_rest = true;
    issue(*local);
    std::erase_if(pages, [this](const PackPage& page) { return !core_.is_missing(page.page); });
    // The others come with the next sweep if there is no room for them now.
    if (pages.empty() || !may_take_buffer()) return true;
  }
  if (!pages.empty()) {
    const double bytes = static_cast<double>(pages.size() * kPageBytes);
    rest_due_ = now + Nanoseconds(static_cast<std::int64_t>(
                          bytes / static_cast<double>(plan_.hydrate_bytes_per_s) * kNanoseconds));
    PrefetchJob& job = add_job(PrefetchJob::Content::kChunks, 0);
    job.is_rest = true;
    job.pages = std::move(pages);
    claim(job);
    service_.link.request_chunks(*this, job);
    return true;
  }
  if (zero_count > 0) return true;
  if (rest_.value == core_.page_count().value) {
    end_sweep();
  } else {
    pause(kShortPause);
  }
  return false;
}

bool Prefetch::comes_in_another_turn(PageIndex page) {
  if (plan_.cold == nullptr) return false;
  const ColdMap& cold = *plan_.cold;
  while (next_cold_ < cold.size() && cold[next_cold_].first + cold[next_cold_].count <= page) {
    ++next_cold_;
  }
  const bool is_cold = next_cold_ < cold.size() && cold[next_cold_].first <= page;
  return is_cold != cold_turn_;
}

void Prefetch::end_sweep() {
  rest_ = {};
  next_cold_ = 0;
  cold_turn_ = !cold_turn_ && plan_.cold != nullptr;
  if (cold_turn_) return pause(kShortPause);
  if (core_.all_accounted(plan_.rest_zeros)) {
    complete_ = true;
    return plan_.rest_zeros == ZeroPages::kToo ? owner_.on_complete() : check_done();
  }
  // Others wait for what is left, or will bring it, or it cannot be had.
  rest_due_ = Clock::now() + sweep_pause_;
  pause(sweep_pause_);
  sweep_pause_ = std::min<Nanoseconds>(sweep_pause_ * 2, limits::kSweepMost);
}

void Prefetch::note_rest_failure(const Error& error) {
  // Once, until all goes well again.
  if (rest_batch_ == limits::kMaxPackPages) {
    log_warning(LogKind("hydration", error), "hydration: {}", error.message());
  }
  rest_batch_ = std::max<std::size_t>(rest_batch_ / kBatchDivisor, 1);
}

void Prefetch::note_rest_success() {
  rest_batch_ = std::min(rest_batch_ * 2, limits::kMaxPackPages);
  sweep_pause_ = limits::kSweepFirst;
}

void Prefetch::pause(Nanoseconds duration) {
  if (!pacing_.active()) loop_.wait(duration, pacing_);
}

}  // namespace thaw
