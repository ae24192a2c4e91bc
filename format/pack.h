#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/bytes.h"
#include "base/error.h"
#include "format/working_set.h"

namespace thaw {

struct ZstdContexts;

/// Which pack it is of which working set.
struct PackId {
  SnapshotId snapshot;
  std::uint64_t generation = 0;
  std::uint32_t number = 0;
  friend constexpr auto operator<=>(const PackId&, const PackId&) = default;
};

/// Turns pages of a working set into a pack and back. Each page has the checksum that its chunk
/// has, seeded with the chunk's id: a pack of another snapshot, or of other pages, fails as a
/// damaged one does. Holds reusable zstd contexts; one thread at a time.
class PackCodec {
 public:
  PackCodec();
  ~PackCodec();
  PackCodec(PackCodec&&) noexcept;

  /// `plain` is the content of the pages, one after the other. REQUIRES: 1 to
  /// limits::kMaxPackPages pages, ascending.
  Bytes encode(std::span<const PackPage> pages, ByteSpan plain);

  /// Decodes a pack of exactly these pages into `plain` and verifies each of them: kBadMagic,
  /// kBadVersion, kTruncated, kMalformed, kChecksumMismatch. On an error `plain` holds garbage.
  /// REQUIRES: plain has room for the pages.
  Result<void> decode(ByteSpan sealed, std::span<const PackPage> pages, MutableByteSpan plain);

 private:
  std::unique_ptr<ZstdContexts> contexts_;
};

}  // namespace thaw
