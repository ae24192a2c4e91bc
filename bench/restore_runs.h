#pragma once

#include <array>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/fault_bench.h"
#include "bench/figures.h"
#include "bench/restore_hosts.h"

namespace thaw::bench {

struct RestorePlan {
  std::size_t repetitions;
  std::size_t guests;  // at most so many
  std::size_t links;   // so many of kLinks
  std::size_t demand_touches;
};
RestorePlan restore_plan(Effort effort);

inline constexpr std::array kLinks{
    Link{"free", 0, Link::Delay::kNone},
    Link{"1gbit", 1'000'000'000, Link::Delay::kNone},
    Link{"10gbit", 10'000'000'000, Link::Delay::kNone},
    Link{"200us", 0, Link::Delay::kRelay},
};

/// The repetitions of the bench `restore`. Samples are named WHAT.GUEST.LINK; beside those of the
/// figures, "set_bytes.GUEST" (of its packs) and "floor.GUEST" (seconds of CPU time that
/// decompressing and copying the recording's pages takes at least, spread over the CPUs). One
/// thread.
class RestoreRuns {
 public:
  static Result<std::unique_ptr<RestoreRuns>> start(const BenchOptions& options, RestorePlan plan,
                                                    Samples& samples);
  Result<void> repeat();

  std::vector<std::string> guests() const;

 private:
  RestoreRuns(const BenchOptions& options, RestorePlan plan, Samples& samples)
      : plan_(plan), samples_(samples), generator_(options.seed) {}

  Result<void> measure(const SavedGuest& guest);
  Result<void> measure_floor(const SavedGuest& guest, std::span<const std::uint32_t> pages);
  Result<void> measure_link(const SavedGuest& guest, const Link& link,
                            std::span<const std::uint32_t> pages);
  /// Demands for pages outside of the set, with and without its stream.
  Result<void> measure_demand(const SavedGuest& guest, const WorkingSet& set);
  Result<void> measure_first_output(const SavedGuest& guest);
  void judge(const SavedGuest& guest, const WorkingSet& set, std::span<const std::uint32_t> pages);

  const RestorePlan plan_;
  Samples& samples_;
  std::mt19937_64 generator_;
  std::vector<SavedGuest> guests_;
  std::unique_ptr<RestoreHosts> hosts_;
  std::size_t repetition_ = 0;
};

}  // namespace thaw::bench
