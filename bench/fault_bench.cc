#include "bench/fault_bench.h"

#include <algorithm>
#include <thread>

#include <fmt/core.h>

#include "bench/fault_runs.h"
#include "bench/placement.h"

namespace thaw::bench {

namespace {

/// A remote fault may take this much longer than its floor in one of a hundred cases.
constexpr double kTailFactor = 3;
constexpr double kSpeedupWanted = 5;
constexpr double kIdlePercentWanted = 0.5;
/// Another VM may not take longer beside any VMM than so many times what it takes alone.
constexpr double kHostileFactor = 2;

/// Turns the samples of all repetitions into figures.
class Summary {
 public:
  Summary(const FaultPlan& plan, const Samples& samples) : plan_(plan), samples_(samples) {}

  /// The least median of a floor over the placements.
  double best(const std::string& kind) const {
    double least = samples_.median_of(kind + "." + kPlacements.front().name);
    for (const Placement& placement : kPlacements) {
      least = std::min(least, samples_.median_of(kind + "." + placement.name));
    }
    return least;
  }

  void add(const std::string& name, const char* unit, double floor, std::string note) {
    figures_.push_back({.name = name,
                        .unit = unit,
                        .value = samples_.median_of(name),
                        .floor = floor,
                        .n = samples_.of(name).size(),
                        .note = std::move(note)});
  }

  void add_placement(const Placement& placement) {
    const std::string place = placement.name;
    const double floor = samples_.median_of("floor." + place);
    const std::string cpus =
        fmt::format("guest on CPU {}, handler on {} {}, server on {}", placement.guest_cpu,
                    placement.handler_cpu,
                    placement.waiting == Placement::Waiting::kSpinning ? "spinning" : "sleeping",
                    placement.server_cpu);
    add("fault.local." + place + ".p50", "us", samples_.median_of("fault_floor." + place),
        fmt::format("zero pages, answered without the network; {}; floor F1 there", cpus));
    add("fault.remote." + place + ".p50", "us", floor,
        fmt::format("{} touches; {}; floor F1 {:.1f} + F2 {:.1f} + F3 {:.1f} + F5 {:.1f} there",
                    plan_.touches, cpus, samples_.median_of("fault_floor." + place),
                    samples_.median_of("request_floor." + place),
                    samples_.median_of("decompression_floor"), samples_.median_of("read_floor")));
    add("fault.remote." + place + ".p99", "us", kTailFactor * floor,
        fmt::format("floor: {} times that of the median", kTailFactor));
  }

  void add_tls() {
    const std::string place = kPlacements.front().name;
    const double floor = samples_.median_of("floor." + place);
    add("fault.remote.tls.p50", "us", floor,
        fmt::format("as fault.remote.{}, over TLS; plain: {:.1f} us; floor: the same", place,
                    samples_.median_of("fault.remote." + place + ".p50")));
    add("fault.remote.tls.p99", "us", kTailFactor * floor,
        fmt::format("floor: {} times that of the median", kTailFactor));
  }

  void add_default() {
    const double floor = best("floor");
    add("fault.remote.default.p50", "us", floor,
        fmt::format("{} touches, nothing pinned; floor: the least of the placements",
                    plan_.touches));
    add("fault.remote.default.p99", "us", kTailFactor * floor,
        fmt::format("floor: {} times that of the median", kTailFactor));
    add("fault.zero.p50", "us", best("fault_floor"),
        "nothing pinned; floor: the least F1 of the placements");
    add("fault.cpu_us_per_fault", "us", best("serving_cpu_floor"),
        "handler and server; floor: CPU time of F1's handler side and of F2 + F3 + F5, in the "
        "placement where it is least");
  }

  void add_parallel() {
    const double cores = static_cast<double>(std::thread::hardware_concurrency());
    const double cpu_us = best("cpu_floor");
    add("fault.remote.faults_per_s", "1/s", cores * 1e6 / cpu_us,
        fmt::format("{} threads; floor: {} cores / {:.1f} us of CPU time of F1 + F2 + F3 + F5, in "
                    "the placement where it is least",
                    kParallelThreads, cores, cpu_us));
    const auto threads = static_cast<double>(plan_.sessions * kParallelThreads);
    add("fault.sessions64.p99", "us", threads * cpu_us / cores,
        fmt::format("{} sessions with {} threads each, {} touches a session; slowest / fastest "
                    "session's median: {:.2f}; floor: a queue of {} faults at the CPU time above",
                    plan_.sessions, kParallelThreads, plan_.session_touches,
                    samples_.median_of("sessions.unfairness"), threads));
  }

  void add_around(std::size_t content_pages) {
    add("fault.around.hit_rate", "share", kShareTouched,
        fmt::format("{} of {} pages touched in a random order; {} brought before their touch or "
                    "in vain; floor: the share of pages touched, which a blind window would hit",
                    kShareTouched, content_pages, samples_.median_of("around.brought")));
    add("fault.around.sequential_speedup", "x", kSpeedupWanted,
        fmt::format("{} pages in ascending order, pages/s with fault-around / without; floor: "
                    "what is wanted",
                    plan_.sequential_touches));
  }

  void add_idle() {
    add("fault.idle.cpu_percent", "%", kIdlePercentWanted,
        fmt::format("one idle guest, {} ms; floor: what is wanted", plan_.idle.count()));
  }

  void add_hostile() {
    const double floor = kHostileFactor * samples_.median_of("hostile.alone");
    for (const Attack& attack : kAttacks) {
      add(fmt::format("fault.hostile.{}.p99", attack.name), "us", floor,
          fmt::format(
              "{} touches beside a VMM on another CPU of which {}; floor: {} times that of one "
              "alone",
              plan_.touches, attack.what, kHostileFactor));
    }
  }

  std::vector<Figure> take() { return std::move(figures_); }

 private:
  const FaultPlan& plan_;
  const Samples& samples_;
  std::vector<Figure> figures_;
};

}  // namespace

Result<std::vector<Figure>> run_fault_bench(const BenchOptions& options) {
  FaultPlan plan = fault_plan(options.effort);
  if (options.repetitions > 0) plan.repetitions = options.repetitions;
  Samples samples;
  const auto runs = TRY(FaultRuns::start(options, plan, samples));
  for (std::size_t i = 0; i < plan.repetitions; ++i) TRY(runs->repeat());
  Summary summary(plan, samples);
  for (const Placement& placement : kPlacements) summary.add_placement(placement);
  summary.add_tls();
  summary.add_default();
  summary.add_parallel();
  summary.add_around(runs->content_pages());
  summary.add_idle();
  summary.add_hostile();
  return summary.take();
}

}  // namespace thaw::bench
