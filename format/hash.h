#pragma once

#include <cstdint>
#include <memory>

#include "base/bytes.h"
#include "base/types.h"
#include "format/chunk.h"
#include "format/manifest.h"

namespace thaw {

/// SHA-256 through OpenSSL, fetched once and with its context reused. One thread at a time.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;

  Sha256 hash(ByteSpan bytes);

 private:
  friend class ContentHash;
  struct State;
  std::unique_ptr<State> state_;
};

/// XXH3-64: tells damage, and no forgery, since collisions can be made.
std::uint64_t fast_hash(ByteSpan bytes);

/// The SHA-256 of 4,096 zero bytes.
const Sha256& zero_page_hash();

/// Of what is pushed now.
inline constexpr ContentForm kPushedForm = ContentForm::kSegments;

/// Accumulates a snapshot's identity from the hashes of its pages in order.
class ContentHash {
 public:
  explicit ContentHash(ContentForm form);
  void add(std::span<const Sha256> pages);
  void add(const Sha256& page) { add(std::span(&page, 1)); }
  void add_zero_pages(PageCount count);
  /// As many pages as the bitmap tells of: zeros where a bit is set, `others` in between.
  void add_pages(ByteSpan zero_bitmap, PageCount count, std::span<const Sha256> others);
  /// The identity of an image with the memory and the state of `spec`. Call once, last.
  Sha256 finish(const SnapshotSpec& spec);

 private:
  void end_segment();

  const ContentForm form_;
  Hasher hasher_;  // over the pages of the segment; in the flat form, over all
  std::uint64_t in_segment_ = 0;
  std::vector<Sha256> segments_;  // that are complete
};

}  // namespace thaw
