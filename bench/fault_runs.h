#pragma once

#include <array>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "bench/fault_bench.h"
#include "bench/figures.h"
#include "bench/fleet.h"
#include "bench/image.h"
#include "bench/sys/library_floors.h"
#include "tests/support/authority.h"
#include "tests/support/scratch_directory.h"

namespace thaw::bench {

/// How much of everything one repetition does.
struct FaultPlan {
  std::size_t repetitions;
  std::size_t touches;           // of one guest on one thread
  std::size_t parallel_touches;  // of one guest on kParallelThreads
  std::size_t sequential_touches;
  std::size_t sessions;
  std::size_t session_touches;  // of each of the sessions, on kParallelThreads
  std::chrono::milliseconds idle;
};
FaultPlan fault_plan(Effort effort);

inline constexpr unsigned kParallelThreads = 8;
/// Of the pages with content, in what measures the use of fault-around.
inline constexpr double kShareTouched = 0.5;

/// VMMs beside which another VM's faults are measured: the mode of tests/support/vmm, what it says
/// when it is at it, and what it does.
struct Attack {
  const char* name;
  const char* mode;
  GuestKind kind;
  const char* at_it;
  const char* what;
};
inline constexpr std::array kAttacks{
    Attack{"flood", "flood", GuestKind::kOwn, "flooding",
           "8 threads fault and give pages back without end"},
    Attack{"shared_flood", "shared-flood", GuestKind::kShared, "flooding",
           "the same in the host image"},
    Attack{"slow_mm", "slow-mm", GuestKind::kOwn, "storming",
           "4 threads hold the lock of its address space, 4 fault"},
    Attack{"shared_slow_mm", "shared-slow-mm", GuestKind::kShared, "storming",
           "the same in the host image"},
    Attack{"shreds", "shared-shreds", GuestKind::kShared, "given back",
           "1,024 regions of the host image in pieces, 50,000 mappings, a page given back"}};

/// The programs of the bench `fault`, and what its repetitions measure with them. Everything goes
/// into the samples under the names of the figures, and floors under names of their own:
/// "floor.PLACEMENT" (F1 + F2 + F3 + F5), "fault_floor.PLACEMENT" (F1), "cpu_floor.PLACEMENT" (CPU
/// time of the four), "serving_cpu_floor.PLACEMENT" (without the guest's share of it). One thread.
class FaultRuns {
 public:
  /// Starts page servers and fault handlers and pushes the image.
  static Result<std::unique_ptr<FaultRuns>> start(const BenchOptions& options, FaultPlan plan,
                                                  Samples& samples);

  /// One repetition of everything, floors and figures in turn.
  Result<void> repeat();

  /// Pages of the image that are not zero.
  std::size_t content_pages() const { return kinds_.content.size(); }

 private:
  FaultRuns(const BenchOptions& options, FaultPlan plan, Samples& samples, ImageFile image);
  Result<void> start_programs();

  Result<void> measure_floors();
  Result<void> measure_placements();
  Result<void> measure_tls();
  Result<void> measure_default();
  Result<void> measure_parallel();
  Result<void> measure_around();
  Result<void> measure_sequential();
  Result<void> measure_sessions();
  Result<void> measure_idle();
  Result<void> measure_hostile();
  /// The 99th percentile of touches of a guest during the attack.
  Result<double> touch_beside(const Attack& attack);

  /// Pages per second of a guest that touches the pages in ascending order.
  Result<double> sequential_rate(Handler& handler, std::span<const std::uint32_t> pages);
  /// So many of the pages, in a random order.
  std::vector<std::uint32_t> pick(const std::vector<std::uint32_t>& pages, std::size_t count);

  const BenchOptions options_;
  const FaultPlan plan_;
  Samples& samples_;
  std::mt19937_64 generator_;
  ImageFile image_;
  PageKinds kinds_;
  // The programs end before their files go.
  test::ScratchDirectory scratch_;
  std::optional<test::PageServer> placed_server_;
  std::optional<test::PageServer> free_server_;
  const test::Authority authority_;
  std::optional<test::PageServer> tls_server_;
  std::vector<Handler> placed_;    // one for each of kPlacements
  std::optional<Handler> tls_;     // the first of kPlacements, over TLS
  std::optional<Handler> plain_;   // default placement, without fault-around
  std::optional<Handler> around_;  // without any flags
  std::optional<ChunkReads> chunk_reads_;
};

}  // namespace thaw::bench
