#pragma once

#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "format/chunk.h"

namespace thaw {

/// Where each page of a snapshot's image is: zero, or a chunk. Kept as runs of zero pages and runs
/// of pages whose chunk ids count up by one, so that it stays small and neighbours are found
/// together. Built by appending; immutable when shared between threads.
///
/// Stored and sent in segments of limits::kSegmentPages pages (the last one shorter), each an
/// envelope of its own; segment k covers the pages from k * kSegmentPages on.
class PageMap {
 public:
  struct Run {
    PageIndex first;
    PageCount length;
    ChunkId chunk;  // of the first page; kNoChunk for a run of zero pages

    bool zero() const { return chunk == kNoChunk; }
  };

  /// What a run takes of memory.
  static constexpr std::size_t kRunBytes = 16;

  PageCount size() const { return size_; }
  std::size_t run_count() const { return starts_.size(); }
  /// The i-th run in page order. REQUIRES: i < run_count().
  Run run(std::size_t i) const;
  /// The rest of the run that holds `page`, from `page` on. REQUIRES: page < size().
  Run find(PageIndex page) const;
  /// The whole run that holds `page`. REQUIRES: page < size().
  Run whole_run(PageIndex page) const;
  /// The chunk that holds `page`, or kNoChunk when it is zero. REQUIRES: page < size().
  ChunkId chunk_of(PageIndex page) const { return find(page).chunk; }

  /// REQUIRES: size() + count stays within the limits of a snapshot.
  void append_zero(PageCount count);
  void append_chunks(ChunkId first, PageCount count);

  std::size_t segment_count() const;
  /// REQUIRES: index < segment_count().
  Bytes encode_segment(std::size_t index) const;
  /// Decodes the next segment onto the end of this map, which must be at a segment's start.
  /// `most` is how many pages the whole map may still grow by. kTooLarge for more runs than
  /// limits::kMaxRuns. On an error the map is unchanged.
  Result<void> append_segment(ByteSpan sealed, PageCount most);

 private:
  struct Start {
    PageIndex first;
    ChunkId chunk;
  };
  static_assert(sizeof(Start) == kRunBytes);
  std::vector<Start> starts_;
  PageCount size_;
};

}  // namespace thaw
