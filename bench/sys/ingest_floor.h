#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bench/image.h"

namespace thaw::bench {

/// The least that pushing images into an empty store can cost: a scan of every page that is no
/// hole, SHA-256 of those that are not zero, and zstd level 1 of those whose content no page before
/// had. Bare libraries on all CPUs at once, with all pages in memory. One thread.
class IngestFloor {
 public:
  struct Source {
    std::string path;        // where its holes are looked for
    const ImageFile& image;  // outlives the floor
  };
  /// Images that are pushed in this order; one may be there more than once.
  static Result<IngestFloor> of(const std::vector<Source>& sources);

  enum class Store { kEmpty, kHasAll };
  /// Seconds for all of it; a store that has all pages needs none compressed.
  double measure(Store store) const;
  /// Microseconds of CPU time that the hash of a page takes.
  double hash_us() const;

  std::size_t nonzero_pages() const { return nonzero_; }
  std::size_t distinct_pages() const { return distinct_; }
  /// Bytes of the distinct pages as frames of their own, or as they are where that is less.
  double frame_bytes() const;
  /// Some pages that are not zero, evenly spread, that stand for all.
  std::vector<PageSpan> sample(std::size_t most) const;

 private:
  struct Page {
    PageSpan bytes;
    enum class Kind { kZero, kNew, kKnown } kind;
  };

  std::vector<Page> pages_;
  std::size_t nonzero_ = 0;
  std::size_t distinct_ = 0;
};

}  // namespace thaw::bench
