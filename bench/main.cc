#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <random>
#include <thread>

#include "base/clock.h"
#include "base/command_line.h"
#include "base/log.h"
#include "base/output.h"
#include "base/program.h"
#include "bench/cpu.h"
#include "bench/fault_bench.h"
#include "bench/restore_bench.h"
#include "bench/shared_bench.h"
#include "bench/soak.h"
#include "bench/store_bench.h"

namespace thaw::bench {
namespace {

struct Bench {
  const char* name;
  const char* description;
  Result<std::vector<Figure>> (*run)(const BenchOptions&);
};
constexpr std::array kBenches{
    Bench{"fault", "time, rate and CPU time of faults, fault-around, many sessions at once",
          run_fault_bench},
    Bench{"restore", "restores with a working set, beside other ways to restore",
          run_restore_bench},
    Bench{"shared", "restores that share one copy of their snapshot on a host", run_shared_bench},
    Bench{"soak", "restores without end while handlers, page servers and VMMs die", run_soak_bench},
    Bench{"store", "pushes, pulls, sizes and reads of a large store, beside backup tools",
          run_store_bench},
};

struct Options {
  std::string name;
  std::string json;
  BenchOptions bench;
  bool quick = false;
};

void list_benches() {
  for (const Bench& bench : kBenches) print_out("{:10} {}\n", bench.name, bench.description);
}

/// Says how much of the machine was not the bench's, without which its figures mean little.
class Disturbance {
 public:
  void print() const {
    const MachineCpu now = machine_cpu();
    const double others_us = now.busy_us - machine_.busy_us - (own_cpu_us() - own_us_);
    const double capacity_us =
        std::chrono::duration<double, std::micro>(Clock::now() - start_).count() *
        std::thread::hardware_concurrency();
    print_out("meanwhile: {:.0f} % of the CPUs for other processes, {:.0f} % taken by a host\n",
              100 * std::max(0.0, others_us) / capacity_us,
              100 * (now.stolen_us - machine_.stolen_us) / capacity_us);
  }

 private:
  Clock::time_point start_ = Clock::now();
  MachineCpu machine_ = machine_cpu();
  double own_us_ = own_cpu_us();
};

Result<void> run(const Bench& bench, const Options& options) {
  print_out("bench {}, seed {}\n\n", bench.name, options.bench.seed);
  std::fflush(stdout);
  const Disturbance disturbance;
  const std::vector<Figure> figures = TRY(bench.run(options.bench));
  const Machine machine = this_machine();
  print_figures(machine, figures);
  disturbance.print();
  if (options.json.empty()) return {};
  std::ofstream file(options.json, std::ios::binary);
  file << figures_json(machine, bench.name, figures);
  if (!file.flush()) return fail(ErrorCode::kIo, "writing {}", options.json);
  return {};
}

}  // namespace
}  // namespace thaw::bench

int main(int argc, char** argv) {
  using namespace thaw::bench;
  thaw::begin_program(thaw::ProgramKind::kCommand);
  Options options;
  options.bench.seed = std::random_device()();
  CLI::App app("Measures Thaw beside the least that the machine allows for the same work.");
  app.add_option("name", options.name, "Which bench; without it they are listed");
  app.add_option("--image", options.bench.image, "Memory image of a guest, to measure with");
  app.add_option("--guests", options.bench.guests,
                 "Directory of saved guests with recordings, to restore or push");
  app.add_option("--cache", options.bench.cache,
                 "Directory that keeps large stores for the next run (20 GB)");
  app.add_option("--json", options.json, "File for the figures");
  app.add_option("--seed", options.bench.seed, "Seed of the random choices");
  app.add_option("--repetitions", options.bench.repetitions,
                 "How often everything is measured; 0: as often as makes comparisons worth it");
  app.add_option("--minutes", options.bench.minutes, "How long the soak lasts")
      ->check(CLI::Range(1u, 10'000u))
      ->capture_default_str();
  app.add_flag("--quick", options.quick, "Less of everything: for tests, not for comparisons");
  thaw::add_version(app);
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv)) return *exit_code;

  thaw::start_logging("thaw-bench", thaw::LogLevel::kInfo);
  if (options.name.empty()) return list_benches(), thaw::finish_output(0);
  options.bench.effort = options.quick ? Effort::kQuick : Effort::kFull;
  for (const Bench& bench : kBenches) {
    if (bench.name != options.name) continue;
    if (const auto result = run(bench, options); !result) {
      thaw::log_error("{}", result.error().message());
      return 1;
    }
    return thaw::finish_output(0);
  }
  thaw::log_error("there is no bench \"{}\"", options.name);
  return 2;
}
