#include "bench/shared_bench.h"

#include <algorithm>
#include <optional>
#include <random>

#include <fmt/core.h>

#include "bench/figures.h"
#include "bench/fleet.h"
#include "bench/image.h"
#include "bench/microvm_runs.h"
#include "tests/support/scratch_directory.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kClones = 8;
constexpr std::size_t kPooledRestores = 8;  // in each repetition
/// Of the pages with content, and of zero pages beside them.
constexpr double kShareTouched = 0.5;
constexpr std::size_t kZeroShare = 8;

/// What the repetitions measure, under the names of the figures, and floors under "floor.NAME".
class SharedRuns {
 public:
  SharedRuns(const BenchOptions& options, Samples& samples, ImageFile image)
      : image_path_(options.image),
        samples_(samples),
        image_(std::move(image)),
        server_(scratch_.path("store")) {
    std::mt19937_64 generator(options.seed);
    PageKinds kinds = sort_pages(image_);
    for (auto* const kind : {&kinds.content, &kinds.zero}) {
      std::ranges::shuffle(*kind, generator);
    }
    const auto share =
        static_cast<std::size_t>(kShareTouched * static_cast<double>(kinds.content.size()));
    pages_.assign(kinds.content.begin(),
                  kinds.content.begin() + static_cast<std::ptrdiff_t>(share));
    const std::size_t zeros = std::min(kinds.zero.size(), share / kZeroShare);
    pages_.insert(pages_.end(), kinds.zero.begin(),
                  kinds.zero.begin() + static_cast<std::ptrdiff_t>(zeros));
    std::ranges::shuffle(pages_, generator);
  }

  Result<void> push() {
    TRY(push_image(server_, image_path_, scratch_.path("pulled")));
    microvm_.emplace(TRY(MicroVmRuns::start(server_, scratch_.path("microvm"))));
    return {};
  }

  Result<void> repeat() {
    // A handler of its own for each restore that is to begin with nothing.
    Handler alone = TRY(start_handler());
    samples_.add("floor.first.wall", TRY(touch_once(alone, GuestKind::kOwn)));
    Handler handler = TRY(start_handler());
    samples_.add("floor.second.wall", TRY(touch_once(handler, GuestKind::kPresent)));
    std::vector<Guest> clones;
    for (std::size_t i = 0; i < kClones; ++i) {
      const auto start = Clock::now();
      clones.push_back(TRY(Guest::start(handler, image_path_, {}, GuestKind::kShared)));
      const double ready = seconds_since(start);
      const auto touched = TRY(clones.back().touch(pages_));
      const SessionReport report = TRY(handler.last_session());
      const char* const which = i == 0 ? "first" : "second";
      if (i > 1) continue;
      samples_.add(fmt::format("{}.wall", which), touched.seconds);
      samples_.add(fmt::format("{}.ready", which), ready);
      samples_.add(fmt::format("{}.faults", which), static_cast<double>(report.faults.total));
    }
    double bytes = TRY(bytes_of_process(handler.pid(), "memfd:thaw:"));
    for (const Guest& clone : clones) bytes += TRY(bytes_of_process(clone.pid(), "memfd:thaw:"));
    samples_.add("clones8.pss", bytes);
    for (Guest& clone : clones) TRY(clone.verify_and_end());
    TRY(measure_microvm(handler));
    TRY(measure_pool());
    return measure_files(handler);
  }

  std::size_t pages() const { return pages_.size(); }

 private:
  /// Without recordings: each restore is to be like the others.
  Result<Handler> start_handler() {
    return Handler::start(scratch_.path(std::to_string(++handlers_)), server_.address(), {},
                          {"--no-record"});
  }
  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
  static Result<double> bytes_of_process(pid_t process, const std::string& path_part) {
    return static_cast<double>(TRY(proportional_bytes(process, path_part)).value);
  }

  Result<double> touch_once(Handler& handler, GuestKind kind) {
    Guest guest = TRY(Guest::start(handler, image_path_, {}, kind));
    const double seconds = TRY(guest.touch(pages_)).seconds;
    TRY(guest.verify_and_end());
    return seconds;
  }

  Result<void> measure_microvm(Handler& handler) {
    TRY(microvm_->shared(handler));  // the one that brings the pages
    samples_.add("microvm.first_output", TRY(microvm_->shared(handler)));
    samples_.add("floor.microvm.first_output", TRY(microvm_->from_file()));
    return {};
  }

  /// The VMs are in this process, so no session may kill its VMM.
  Result<void> measure_pool() {
    Handler patient =
        TRY(Handler::start(scratch_.path(std::to_string(++handlers_)), server_.address(), {},
                           {"--no-record", "--on-unservable", "wait"}));
    for (std::size_t i = 0; i < kPooledRestores; ++i) {
      samples_.add("pool.restore", TRY(microvm_->pooled(patient, ShellOrigin::kPooled)));
      samples_.add("floor.pool.restore", TRY(microvm_->pooled(patient, ShellOrigin::kOnDemand)));
    }
    return {};
  }

  Result<void> measure_files(Handler& handler) {
    std::vector<Guest> clones;
    for (std::size_t i = 0; i < kClones; ++i) {
      clones.push_back(TRY(Guest::start(handler, image_path_, {}, GuestKind::kFile)));
      TRY(clones.back().touch(pages_));
    }
    double bytes = 0;
    for (const Guest& clone : clones) bytes += TRY(bytes_of_process(clone.pid(), image_path_));
    samples_.add("floor.clones8.pss", bytes);
    for (Guest& clone : clones) TRY(clone.verify_and_end());
    return {};
  }

  const std::string image_path_;
  Samples& samples_;
  ImageFile image_;
  std::vector<std::uint32_t> pages_;
  std::size_t handlers_ = 0;
  // The programs end before their files go.
  test::ScratchDirectory scratch_;
  test::PageServer server_;
  std::optional<MicroVmRuns> microvm_;
};

}  // namespace

Result<std::vector<Figure>> run_shared_bench(const BenchOptions& options) {
  std::size_t repetitions = options.effort == Effort::kQuick ? 1 : 5;
  if (options.repetitions > 0) repetitions = options.repetitions;
  Samples samples;
  SharedRuns runs(options, samples, TRY(ImageFile::open(options.image)));
  TRY(runs.push());
  for (std::size_t i = 0; i < repetitions; ++i) TRY(runs.repeat());

  std::vector<Figure> figures;
  const auto add = [&](const char* name, const char* unit, const std::string& sample,
                       const std::string& floor, std::string note) {
    figures.push_back({.name = name,
                       .unit = unit,
                       .value = samples.median_of(sample),
                       .floor = samples.median_of(floor),
                       .n = samples.of(sample).size(),
                       .note = std::move(note)});
  };
  const std::string touches = fmt::format("{} pages touched in a random order", runs.pages());
  add("shared.second.wall", "s", "second.wall", "floor.second.wall",
      touches + "; floor: F6, a memory file that has them all, mapped privately");
  add("shared.second.faults", "faults", "second.faults", "first.faults",
      "that the handler answered; floor: those of the first restore");
  add("shared.second.ready", "s", "second.ready", "first.ready",
      "from prepare to memory that is handed over, the VMM's start included; floor: the first "
      "restore's");
  add("shared.first.wall", "s", "first.wall", "floor.first.wall",
      touches + ", all of them missing; floor: a VM with memory of its own");
  add("shared.clones8.pss", "bytes", "clones8.pss", "floor.clones8.pss",
      fmt::format(
          "memory of {} VMs and of the handler's own mapping; floor: as many processes that "
          "map a local file",
          kClones));
  add("pool.restore.p50", "us", "pool.restore", "floor.pool.restore",
      "a microVM from a shell until it could run; floor: a shell that is made then");
  add("microvm.restore.first_output", "ms", "microvm.first_output", "floor.microvm.first_output",
      "a whole VM of KVM, the second on an image; floor: its memory in a local file");
  return figures;
}

}  // namespace thaw::bench
