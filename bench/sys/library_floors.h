#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench/floors.h"
#include "format/chunk.h"

namespace thaw::bench {

/// F3: zstd alone, without the chunk around its frame: each of the pages that level 1 makes
/// smaller is decompressed once, with one context. kInvalidArgument: it makes none smaller.
Result<FloorSample> measure_decompression(const std::vector<PageSpan>& pages);

/// F3 in groups: microseconds a page when zstd decompresses 16 pages that level 1 compressed
/// together. kInvalidArgument: fewer pages.
Result<double> measure_group_decompression(const std::vector<PageSpan>& pages);

/// F5: RocksDB alone, on a page server's store, which may be in use. One thread.
class ChunkReads {
 public:
  /// Reads every chunk once, so that what is measured comes from the cache.
  static Result<ChunkReads> open(const std::string& store);
  ChunkReads(ChunkReads&&) noexcept;
  ~ChunkReads();

  /// Gets chunks one by one, in a random order.
  Result<FloorSample> measure(std::mt19937_64& generator, std::size_t repetitions);

 private:
  struct Database;
  explicit ChunkReads(std::unique_ptr<Database> database);

  std::unique_ptr<Database> database_;
};

}  // namespace thaw::bench
