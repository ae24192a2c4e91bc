#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/fault_bench.h"
#include "bench/figures.h"
#include "bench/filled_store.h"
#include "bench/image.h"
#include "bench/sys/ingest_floor.h"
#include "tests/support/programs.h"
#include "tests/support/scratch_directory.h"

namespace thaw::bench {

struct StorePlan {
  std::size_t repetitions;
  /// Chunks of the stores that single reads come from: the floor's, and those that the figures are
  /// named after.
  std::size_t few;
  std::size_t many;
  std::size_t most;
  std::size_t warm_gets;
  std::size_t cold_gets;
};
StorePlan store_plan(Effort effort);

/// Pushes of the same guests begin together.
inline constexpr std::size_t kPushesAtOnce = 8;

/// The repetitions of the bench `store`. Samples: seconds of "ingest", "dup", "eight", "pull" and
/// "restic", each of the first four with its "floor."; bytes of "store", "frames", "restic_bytes",
/// "borg_bytes", "borg_zstd_bytes", "server_peak" and "push_peak"; of
/// a collection seconds in "gc" and bytes of "gc_dead" and "gc_freed"; microseconds of
/// "get.few", "get.many", "get.most" and the same with ".cold", and what each of those reads from
/// the disk in "NAME.disk_bytes". One thread.
class StoreRuns {
 public:
  static Result<std::unique_ptr<StoreRuns>> start(const BenchOptions& options, StorePlan plan,
                                                  Samples& samples);
  Result<void> repeat();
  /// After the last repetition, since files that were taken out of the page cache come back only
  /// when they are read.
  Result<void> measure_gets();

  std::size_t guests() const { return guests_.size(); }
  /// Of all images, holes included.
  double logical_bytes() const { return bytes_of_pushes(guests_.size()); }
  double eight_bytes() const { return bytes_of_pushes(kPushesAtOnce); }
  double largest_image() const;
  std::size_t distinct_pages() const { return one_by_one_->distinct_pages(); }

 private:
  struct Guest {
    std::string name;
    std::string path;
    ImageFile image;
  };

  StoreRuns(const BenchOptions& options, StorePlan plan, Samples& samples)
      : plan_(plan), samples_(samples), generator_(options.seed), kept_(options.cache) {}

  Result<void> load(const std::string& directory);
  Result<void> measure_one_by_one();
  Result<void> measure_at_once();
  Result<void> measure_floors();
  Result<void> measure_tools();
  /// Seconds that pushing all guests one after the other takes.
  Result<double> push_all(const test::PageServer& server, const std::string& prefix);
  /// The same for pulls, whose bytes are compared.
  Result<double> pull_all(const test::PageServer& server);
  Result<void> measure_size(test::PageServer& server, const std::string& directory);
  Result<void> measure_collection(test::PageServer& server, const std::string& directory);
  static Result<double> size_of(test::PageServer& server, const std::string& directory);
  Result<std::vector<FilledStore>> fill_stores(const std::string& directory) const;
  const Guest& guest_of_push(std::size_t push) const { return guests_[push % guests_.size()]; }
  double bytes_of_pushes(std::size_t pushes) const;
  IngestFloor::Source source_of_push(std::size_t push) const;

  const StorePlan plan_;
  Samples& samples_;
  std::mt19937_64 generator_;
  const std::string kept_;  // directory of filled stores; empty: they are not kept
  std::vector<Guest> guests_;
  std::unique_ptr<IngestFloor> one_by_one_;
  std::unique_ptr<IngestFloor> at_once_;
  std::size_t repetition_ = 0;
};

}  // namespace thaw::bench
