#include "bench/restore_runs.h"

#include <algorithm>
#include <thread>
#include <unordered_set>

#include "bench/floors.h"
#include "bench/sys/library_floors.h"

namespace thaw::bench {

namespace {

/// Of a set's pages, those that stand for all when a floor is measured.
constexpr std::size_t kFloorPages = 4096;

std::vector<std::uint32_t> pages_of(const Recording& recording) {
  std::vector<std::uint32_t> pages;
  pages.reserve(recording.touches.size());
  for (const Touch& touch : recording.touches) {
    pages.push_back(static_cast<std::uint32_t>(touch.page.value));
  }
  return pages;
}

}  // namespace

RestorePlan restore_plan(Effort effort) {
  if (effort == Effort::kQuick) {
    return {.repetitions = 2, .guests = 1, .links = 2, .demand_touches = 100};
  }
  return {.repetitions = 5, .guests = 16, .links = kLinks.size(), .demand_touches = 400};
}

Result<std::unique_ptr<RestoreRuns>> RestoreRuns::start(const BenchOptions& options,
                                                        RestorePlan plan, Samples& samples) {
  std::unique_ptr<RestoreRuns> runs(new RestoreRuns(options, plan, samples));
  runs->guests_ = TRY(load_guests(options.guests));
  while (runs->guests_.size() > plan.guests) runs->guests_.pop_back();
  runs->hosts_ = TRY(RestoreHosts::start(runs->guests_));
  return runs;
}

std::vector<std::string> RestoreRuns::guests() const {
  std::vector<std::string> names;
  for (const SavedGuest& guest : guests_) names.push_back(guest.name);
  return names;
}

Result<void> RestoreRuns::repeat() {
  for (const SavedGuest& guest : guests_) TRY(measure(guest));
  ++repetition_;
  return {};
}

Result<void> RestoreRuns::measure(const SavedGuest& guest) {
  // Another one is held out each time.
  const std::size_t held_out = repetition_ % guest.recordings.size();
  std::vector<Recording> others;
  for (std::size_t i = 0; i < guest.recordings.size(); ++i) {
    if (i != held_out) others.push_back(guest.recordings[i]);
  }
  const std::vector<std::uint32_t> pages = pages_of(guest.recordings[held_out]);
  TRY(hosts_->use(kLinks[0]));
  const WorkingSet set = TRY(hosts_->make_set(guest, others));
  judge(guest, set, pages);
  TRY(measure_floor(guest, pages));
  for (std::size_t i = 0; i < plan_.links; ++i) {
    TRY(hosts_->use(kLinks[i]));
    TRY(measure_link(guest, kLinks[i], pages));
  }
  TRY(hosts_->use(kLinks[0]));
  TRY(measure_demand(guest, set));
  return measure_first_output(guest);
}

void RestoreRuns::judge(const SavedGuest& guest, const WorkingSet& set,
                        std::span<const std::uint32_t> pages) {
  const std::unordered_set<std::uint32_t> touched(pages.begin(), pages.end());
  const auto hits = std::ranges::count_if(set.pages, [&](const SetPage& page) {
    return touched.contains(static_cast<std::uint32_t>(page.page.value));
  });
  samples_.add("precision." + guest.name,
               static_cast<double>(hits) / static_cast<double>(set.pages.size()));
  samples_.add("recall." + guest.name,
               static_cast<double>(hits) / static_cast<double>(pages.size()));
  samples_.add("set_bytes." + guest.name, static_cast<double>(set.pack_bytes()));
  samples_.add("trace." + guest.name, static_cast<double>(pages.size()));
}

Result<void> RestoreRuns::measure_floor(const SavedGuest& guest,
                                        std::span<const std::uint32_t> pages) {
  std::vector<PageSpan> content;
  std::size_t count = 0;
  for (const std::uint32_t page : pages) {
    if (is_zero_page(guest.image.page(page))) continue;
    if (++count <= kFloorPages) content.push_back(guest.image.page(page));
  }
  const double cores = std::thread::hardware_concurrency();
  const double decompress_us = TRY(measure_group_decompression(content));
  const double copy_us = TRY(measure_copies(content.size()));
  samples_.add("group_us", decompress_us);
  samples_.add("copy_us", copy_us);
  samples_.add("floor." + guest.name,
               static_cast<double>(count) * (decompress_us + copy_us) / cores / 1e6);
  return {};
}

Result<void> RestoreRuns::measure_link(const SavedGuest& guest, const Link& link,
                                       std::span<const std::uint32_t> pages) {
  const std::string of = "." + guest.name + "." + link.name;
  const Replayed ws = TRY(hosts_->replay_session(guest, pages, Brought::kWorkingSet, Around::kYes));
  samples_.add("ws.wall" + of, ws.wall_s);
  samples_.add("ws.bytes" + of, ws.bytes);
  samples_.add("ws.faults" + of, static_cast<double>(ws.session.faults.total));
  samples_.add("ws.late" + of, static_cast<double>(ws.session.prefetch.late_pages));
  samples_.add("ws.first_touch" + of, ws.first_touch_us);
  const Replayed none = TRY(hosts_->replay_session(guest, pages, Brought::kOnDemand, Around::kNo));
  samples_.add("none.wall" + of, none.wall_s);
  samples_.add("none.bytes" + of, none.bytes);
  samples_.add("none.faults" + of, static_cast<double>(none.session.faults.total));
  samples_.add("none.first_touch" + of, none.first_touch_us);
  const Replayed around =
      TRY(hosts_->replay_session(guest, pages, Brought::kOnDemand, Around::kYes));
  samples_.add("around.wall" + of, around.wall_s);
  samples_.add("around.faults" + of, static_cast<double>(around.session.faults.total));
  const Replayed download = TRY(hosts_->replay_download(guest, pages));
  samples_.add("download.wall" + of, download.wall_s);
  samples_.add("download.bytes" + of, download.bytes);
  samples_.add("nbd.wall" + of, TRY(hosts_->replay_nbd(guest, pages)).wall_s);
  samples_.add("local.wall" + of, TRY(hosts_->replay_local(guest, pages)).wall_s);
  return {};
}

Result<void> RestoreRuns::measure_demand(const SavedGuest& guest, const WorkingSet& set) {
  std::unordered_set<std::uint32_t> in_set;
  for (const SetPage& page : set.pages) in_set.insert(static_cast<std::uint32_t>(page.page.value));
  std::vector<std::uint32_t> outside = sort_pages(guest.image).content;
  std::erase_if(outside, [&](std::uint32_t page) { return in_set.contains(page); });
  std::ranges::shuffle(outside, generator_);
  outside.resize(std::min(outside.size(), plan_.demand_touches));
  for (const auto& [name, brought] :
       {std::pair{"demand.with.", Brought::kWorkingSet}, {"demand.without.", Brought::kOnDemand}}) {
    const Replayed replayed = TRY(hosts_->replay_session(guest, outside, brought, Around::kNo));
    samples_.add(name + guest.name, quantile(replayed.touch_us, 0.99));
  }
  return {};
}

Result<void> RestoreRuns::measure_first_output(const SavedGuest& guest) {
  samples_.add("output.ws." + guest.name, TRY(hosts_->first_output(guest, Brought::kWorkingSet)));
  samples_.add("output.none." + guest.name, TRY(hosts_->first_output(guest, Brought::kOnDemand)));
  samples_.add("output.local." + guest.name, TRY(hosts_->first_output_local(guest)));
  return {};
}

}  // namespace thaw::bench
