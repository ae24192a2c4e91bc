#include "bench/store_bench.h"

#include <fmt/core.h>

#include "base/output.h"
#include "bench/hostile_tenant.h"
#include "bench/store_runs.h"

namespace thaw::bench {

namespace {

/// Turns the samples of all repetitions into figures.
class Summary {
 public:
  Summary(const StorePlan& plan, const StoreRuns& runs, const Samples& samples)
      : plan_(plan), runs_(runs), samples_(samples) {}

  void add_rates() {
    const double bytes = runs_.logical_bytes();
    const std::string pushed = fmt::format(
        "{} guests one after the other, bytes of their images "
        "with all holes, stores in memory",
        runs_.guests());
    add_rate("ingest.rate", "ingest", bytes, of("floor.ingest"),
             pushed + "; floor: scan, F7 hash and F7 compression of what is new on all CPUs");
    add_rate("ingest.vs_restic", "ingest", bytes, of("restic"), "the same; floor: restic");
    add_rate("ingest.eight.rate", "eight", runs_.eight_bytes(), of("floor.eight"),
             fmt::format("{} pushes at once; floor as before", kPushesAtOnce));
    add_rate("ingest.dup.rate", "dup", bytes, of("floor.dup"),
             "known images under another name; floor: scan and F7 hash on all CPUs");
    add_rate("pull.rate", "pull", bytes, of("floor.pull"),
             "into memory; floor: F3 and F7 hash of each page that is not zero, on all CPUs");
  }

  void add_sizes() {
    add("store.bytes", "bytes", "store", of("frames"),
        fmt::format("compacted; floor: {} distinct pages as bare frames (F7)",
                    runs_.distinct_pages()));
    add("store.bytes.restic", "bytes", "store", of("restic_bytes"), "floor: restic's repository");
    add("store.bytes.borg", "bytes", "store", of("borg_bytes"),
        "floor: borg's repository, pieces of 4 KiB, lz4 as by default");
    add("store.bytes.borg_zstd", "bytes", "store", of("borg_zstd_bytes"),
        "floor: borg's with zstd level 1");
  }

  void add_collection() {
    const double dead = of("gc_dead");
    add_rate("gc.rate", "gc", dead, dead * of("ingest") / of("store"),
             "chunks of deleted guests; floor: the rate at which the store took them in");
    add("gc.freed", "bytes", "gc_freed", dead,
        "by it, on the disk; floor: the bytes of those chunks");
  }

  void add_gets() {
    add_get("1M", plan_.many, "get.many", "");
    add_get("1M", plan_.many, "get.many", ".cold");
    add_get("10M", plan_.most, "get.most", "");
    add_get("10M", plan_.most, "get.most", ".cold");
  }

  void add_memory() {
    add("rss.peak", "bytes", "server_peak", runs_.largest_image(),
        "page server, after pushes and pulls of all guests; floor: the largest image");
    add("rss.peak.push", "bytes", "push_peak", runs_.largest_image(),
        "the largest of the pushes at once; floor: the largest image");
  }

  std::vector<Figure> take() { return std::move(figures_); }

 private:
  double of(const std::string& sample) const { return samples_.median_of(sample); }
  void add(const std::string& name, const char* unit, const std::string& sample, double floor,
           std::string note) {
    figures_.push_back({.name = name,
                        .unit = unit,
                        .value = of(sample),
                        .floor = floor,
                        .n = samples_.of(sample).size(),
                        .note = std::move(note)});
  }
  void add_rate(const std::string& name, const std::string& sample, double bytes,
                double floor_seconds, std::string note) {
    figures_.push_back({.name = name,
                        .unit = "bytes/s",
                        .value = bytes / of(sample),
                        .floor = bytes / floor_seconds,
                        .n = samples_.of(sample).size(),
                        .note = std::move(note)});
  }
  void add_get(const char* size, std::size_t chunks, const std::string& sample,
               const std::string& state) {
    add(fmt::format("get.p50.{}{}", size, state), "us", sample + state, of("get.few" + state),
        fmt::format("{} of {} chunks, {} in memory before, {:.0f} bytes each from the disk; floor: "
                    "the same of {} chunks, {:.0f} bytes",
                    state.empty() ? plan_.warm_gets : plan_.cold_gets, chunks,
                    state.empty() ? "all" : "none", of(sample + state + ".disk_bytes"), plan_.few,
                    of("get.few" + state + ".disk_bytes")));
  }

  const StorePlan& plan_;
  const StoreRuns& runs_;
  const Samples& samples_;
  std::vector<Figure> figures_;
};

}  // namespace

Result<std::vector<Figure>> run_store_bench(const BenchOptions& options) {
  StorePlan plan = store_plan(options.effort);
  if (options.repetitions > 0) plan.repetitions = options.repetitions;
  Samples samples;
  const auto runs = TRY(StoreRuns::start(options, plan, samples));
  for (std::size_t i = 0; i < plan.repetitions; ++i) {
    print_out("repetition {} of {}\n", i + 1, plan.repetitions);
    std::fflush(stdout);
    TRY(runs->repeat());
  }
  TRY(runs->measure_gets());
  Summary summary(plan, *runs, samples);
  summary.add_rates();
  summary.add_sizes();
  summary.add_collection();
  summary.add_gets();
  summary.add_memory();
  std::vector<Figure> figures = summary.take();
  const bool quick = options.effort == Effort::kQuick;
  const auto hostile = TRY(
      run_hostile_tenant(quick ? HostileTenantPlan{400, 4000} : HostileTenantPlan{1000, 20'000}));
  figures.insert(figures.end(), hostile.begin(), hostile.end());
  return figures;
}

}  // namespace thaw::bench
