#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "format/chunk.h"

namespace thaw {
class Store;
}

namespace thaw::bench {

/// A store with many chunks: pages of real guests again and again, under ascending ids, each with a
/// hash of its own. Opened as the page server opens its store. One thread.
class FilledStore {
 public:
  /// In `directory`; one that was filled with as many chunks of the same bytes is taken as it is.
  /// REQUIRES: pages is not empty.
  static Result<FilledStore> make(const std::string& directory, std::size_t chunks,
                                  const std::vector<PageSpan>& pages);
  FilledStore(FilledStore&&) noexcept;
  ~FilledStore();

  std::size_t chunks() const { return chunks_; }
  /// Brings all its files into the page cache.
  Result<void> warm() const;
  /// Empties its block cache, and takes its files out of the page cache.
  Result<void> cool();
  struct Gets {
    double us = 0;          // the median of their times
    double disk_bytes = 0;  // that each read from the disk, on average
  };
  /// Reads random chunks, one by one.
  Result<Gets> get(std::mt19937_64& generator, std::size_t repetitions);

 private:
  FilledStore(std::string directory, std::size_t chunks);
  Result<bool> is_filled(const std::string& description) const;
  Result<void> fill(const std::vector<PageSpan>& pages);
  Result<void> open();
  /// kCorrupt unless the chunk can be read, decompressed and verified.
  Result<void> check(ChunkId id);

  std::string directory_;
  std::size_t chunks_;
  std::uint64_t first_id_ = 0;
  std::unique_ptr<Store> store_;
};

}  // namespace thaw::bench
