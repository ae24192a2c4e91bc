#include "bench/restore_bench.h"

#include <algorithm>
#include <string_view>

#include <fmt/core.h>

#include "base/output.h"
#include "bench/restore_runs.h"

namespace thaw::bench {

namespace {

constexpr double kBitsPerByte = 8;
constexpr double kMostFaultsLeft = 0.02;

/// Turns the samples of all repetitions into figures.
class Summary {
 public:
  explicit Summary(const Samples& samples) : samples_(samples) {}

  void add(const std::string& name, const char* unit, const std::string& sample, double floor,
           std::string note) {
    figures_.push_back({.name = "restore." + name,
                        .unit = unit,
                        .value = of(sample),
                        .floor = floor,
                        .n = samples_.of(sample).size(),
                        .note = std::move(note)});
  }
  double of(const std::string& sample) const { return samples_.median_of(sample); }

  /// The least that the wall time of a restore with a working set can be over this link.
  double floor(const std::string& guest, const Link& link) const {
    const double cpu_s = of("floor." + guest);
    if (link.bits_per_s == 0) return cpu_s;
    const double link_s =
        of("set_bytes." + guest) * kBitsPerByte / static_cast<double>(link.bits_per_s);
    return std::max(cpu_s, link_s);
  }

  void add_link(const std::string& guest, const Link& link) {
    const std::string of_both = guest + "." + link.name;
    const double ws = of("ws.wall." + of_both);
    add("ws.wall." + of_both, "s", "ws.wall." + of_both, floor(guest, link),
        "floor: decompression and copies on all CPUs, or the packs at the link's rate, whichever "
        "is more");
    add("none.wall." + of_both, "s", "none.wall." + of_both, ws,
        "one page on each demand; floor: ws.wall, so the ratio is how many times faster that is");
    add("around.wall." + of_both, "s", "around.wall." + of_both, ws,
        "with fault-around; floor: ws.wall");
    add("download.wall." + of_both, "s", "download.wall." + of_both, ws,
        "the whole image as one zstd stream first; floor: ws.wall");
    add("nbd.wall." + of_both, "s", "nbd.wall." + of_both, ws,
        "nbdkit and nbdfuse, mapped; floor: ws.wall");
    add("local.wall." + of_both, "s", "local.wall." + of_both, ws,
        "a local file in the page cache, mapped; floor: ws.wall");
    add("ws.faults_left." + of_both, "faults", "ws.faults." + of_both, of("none.faults." + of_both),
        "floor: the faults without prefetch");
    add("ws.late." + of_both, "pages", "ws.late." + of_both,
        kMostFaultsLeft * of("none.faults." + of_both),
        "demanded while on their way; floor: 2 % of the faults without prefetch");
    add("ws.bytes." + of_both, "bytes", "ws.bytes." + of_both, of("none.bytes." + of_both),
        "over the link, all of it; floor: without prefetch");
    add("first_touch_after_resume." + of_both, "us", "ws.first_touch." + of_both,
        of("none.first_touch." + of_both), "floor: without prefetch");
  }

  void add_guest(const std::string& guest) {
    add("ws.precision." + guest, "share", "precision." + guest, 1,
        "pages of the set that the held-out recording touched");
    add("ws.recall." + guest, "share", "recall." + guest, 1,
        fmt::format("pages of the held-out recording ({:.0f}) that were in the set",
                    of("trace." + guest)));
    add("demand.p99." + guest, "us", "demand.with." + guest, of("demand.without." + guest),
        "demands for pages outside of the set while it streams; floor: without a stream");
    add("qemu.first_output." + guest, "s", "output.ws." + guest, of("output.local." + guest),
        "from prepare to the answer to a request, in QEMU under TCG; floor: memory in a local "
        "file");
    add("qemu.first_output.none." + guest, "s", "output.none." + guest, of("output.local." + guest),
        "the same without prefetch");
  }

  /// Over all guests, on a link where nothing but the machine limits: sums, or means of shares.
  void add_overall(const std::vector<std::string>& guests) {
    const auto all = [&](const std::string& name, const char* unit, const auto& value_of,
                         const auto& floor_of, std::string note) {
      Figure figure{.name = "restore." + name,
                    .unit = unit,
                    .value = 0,
                    .floor = 0,
                    .n = samples_.of("precision." + guests.front()).size(),
                    .note = "all guests; " + std::move(note)};
      const double share =
          std::string_view(unit) == "share" ? static_cast<double>(guests.size()) : 1;
      for (const std::string& guest : guests) {
        figure.value += value_of(guest) / share;
        figure.floor += floor_of(guest) / share;
      }
      figures_.push_back(std::move(figure));
    };
    const auto free = [&](const std::string& kind) {
      return [this, kind](const std::string& guest) { return of(kind + guest + ".free"); };
    };
    const auto alone = [&](const std::string& kind) {
      return [this, kind](const std::string& guest) { return of(kind + guest); };
    };
    const auto one = [](const std::string&) { return 1.0; };
    all("ws.wall", "s", free("ws.wall."), alone("floor."),
        fmt::format("free link; floor: pages x (F3 group {:.2f} + F4 {:.2f} us) / CPUs",
                    of("group_us"), of("copy_us")));
    all("ws.faults_left", "faults", free("ws.faults."), free("none.faults."),
        "free link; floor: the faults without prefetch");
    all("ws.bytes", "bytes", free("ws.bytes."), free("none.bytes."),
        "free link; floor: without prefetch");
    all("ws.precision", "share", alone("precision."), one, "on held-out recordings");
    all("ws.recall", "share", alone("recall."), one, "on held-out recordings");
    all("first_touch_after_resume", "us", free("ws.first_touch."), free("none.first_touch."),
        "free link; floor: without prefetch");
    all("qemu.first_output", "s", alone("output.ws."), alone("output.local."),
        "free link; floor: memory in a local file");
  }

  std::vector<Figure> take() { return std::move(figures_); }

 private:
  const Samples& samples_;
  std::vector<Figure> figures_;
};

}  // namespace

Result<std::vector<Figure>> run_restore_bench(const BenchOptions& options) {
  RestorePlan plan = restore_plan(options.effort);
  if (options.repetitions > 0) plan.repetitions = options.repetitions;
  Samples samples;
  const auto runs = TRY(RestoreRuns::start(options, plan, samples));
  for (std::size_t i = 0; i < plan.repetitions; ++i) {
    print_out("repetition {} of {}\n", i + 1, plan.repetitions);
    std::fflush(stdout);
    TRY(runs->repeat());
  }
  Summary summary(samples);
  summary.add_overall(runs->guests());
  for (const std::string& guest : runs->guests()) {
    summary.add_guest(guest);
    for (std::size_t i = 0; i < plan.links; ++i) summary.add_link(guest, kLinks[i]);
  }
  return summary.take();
}

}  // namespace thaw::bench
