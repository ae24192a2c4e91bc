#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "format/chunk.h"

namespace thaw {

/// Where each page of a snapshot's image is: zero, or a chunk. Runs of zero pages, and runs of
/// pages whose chunk ids count up by one: as long as they can be, but each in one segment. Built by
/// appending; immutable when shared between threads.
///
/// Stored and sent in segments of limits::kSegmentPages pages (the last one shorter), each an
/// envelope of its own; segment k covers the pages from k * kSegmentPages on. In memory the runs
/// stay as they are stored, two bytes or a few more each, beside a small index of where to begin.
class PageMap {
 private:
  struct Segment;

 public:
  struct Run {
    PageIndex first;
    PageCount length;
    ChunkId chunk;  // of the first page; kNoChunk for a run of zero pages

    bool zero() const { return chunk == kNoChunk; }
    PageIndex end() const { return first + length; }
    /// The chunk of one of its pages, or kNoChunk. REQUIRES: the page is in the run.
    ChunkId chunk_of(PageIndex page) const {
      return zero() ? kNoChunk : ChunkId{chunk.value + (page - first).value};
    }
  };

  /// Goes through a map's pages in order, run by run. The map must stay as it is meanwhile.
  class Cursor {
   public:
    /// REQUIRES: page <= map.size().
    explicit Cursor(const PageMap& map, PageIndex page = {});

    bool at_end() const { return page_.value == map_.size_.value; }
    /// The run that it is in. REQUIRES: !at_end(), as all that follows.
    Run run() const { return run_; }
    /// The rest of that run, from here on.
    Run rest() const { return {page_, run_.end() - page_, run_.chunk_of(page_)}; }
    /// REQUIRES: count <= rest().length.
    void skip(PageCount count);
    /// To the next run.
    void next() { skip(run_.end() - page_); }

   private:
    void read_run();
    void enter(const Segment& segment);

    const PageMap& map_;
    PageIndex page_;
    Run run_;
    const std::byte* behind_ = nullptr;  // the run, as it is stored
    std::uint64_t expected_ = 0;         // the id that would follow
  };

  PageCount size() const { return size_; }
  std::size_t run_count() const { return run_count_; }
  /// What it takes of memory.
  ByteCount memory() const;
  /// The rest of the run that holds `page`, from `page` on. REQUIRES: page < size().
  Run find(PageIndex page) const { return Cursor(*this, page).rest(); }
  /// The whole run that holds `page`. REQUIRES: page < size().
  Run whole_run(PageIndex page) const { return Cursor(*this, page).run(); }
  /// The chunk that holds `page`, or kNoChunk when it is zero. REQUIRES: page < size().
  ChunkId chunk_of(PageIndex page) const { return find(page).chunk; }

  /// REQUIRES: size() + count stays within the limits of a snapshot.
  void append_zero(PageCount count) { append(kNoChunk, count); }
  void append_chunks(ChunkId first, PageCount count);

  std::size_t segment_count() const { return segments_.size(); }
  /// REQUIRES: index < segment_count().
  Bytes encode_segment(std::size_t index) const;
  /// What memory() will say when this segment is appended, by its header alone. The errors of a
  /// header.
  Result<ByteCount> memory_with(ByteSpan sealed) const;
  /// Decodes the next segment onto the end of this map. `most` is how many pages the whole map may
  /// still grow by. kTooLarge, before anything is allocated, for more memory than
  /// limits::kMaxMapBytes. On an error the map is unchanged.
  Result<void> append_segment(ByteSpan sealed, PageCount most);

 private:
  /// A run from which on a segment can be read.
  struct Skip {
    std::uint32_t page;      // its first page, counted in the segment
    std::uint32_t at;        // where it stands in the bytes
    std::uint64_t expected;  // the id after the stored run before it
  };
  struct Segment {
    Bytes runs;  // as they are stored
    std::vector<Skip> skips;

    /// A run comes to stand at `at`.
    void note_run(std::size_t at, PageCount page, std::uint64_t expected);
    /// Nothing comes any more.
    void close();
  };
  /// The last run, to which the next one may be added.
  struct Last {
    Run run;
    std::size_t at = 0;
    std::uint64_t expected = 0;

    std::uint64_t expected_next() const {
      return run.zero() ? expected : run.chunk.value + run.length.value;
    }
    bool goes_on_with(ChunkId chunk) const;
  };

  /// Of a segment of so many plain bytes.
  static ByteCount memory_of(std::size_t plain_bytes);
  PageRange pages_of(std::size_t index) const;
  void append(ChunkId first, PageCount count);
  /// All in one segment.
  void append_run(ChunkId first, PageCount count);

  std::vector<Segment> segments_;
  Last last_;
  PageCount size_;
  std::size_t run_count_ = 0;
};

/// Asked before a page map takes so much memory in all; its error ends what the map was for.
using MapAdmission = std::function<Result<void>(ByteCount all)>;

}  // namespace thaw
