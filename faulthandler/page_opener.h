#pragma once

#include <optional>
#include <span>

#include "base/error.h"
#include "faulthandler/chunk_source.h"
#include "faulthandler/page_hashes.h"
#include "format/chunk.h"
#include "format/hash.h"
#include "format/pack.h"

namespace thaw {

/// No page may come to a guest or a host image past what its session is checked by. So this is the
/// one place where bytes of others become a page: a chunk, a pack, or the page of another image on
/// this host. A page is what its chunk's checksum says. Where there are `hashes`, it is also the
/// one that the content hash names at this place. One thread.
class PageOpener {
 public:
  /// Into `to`: errors of ChunkCodec::decode(), kHashMismatch. On an error `to` holds garbage.
  /// `hashes` may be null.
  Result<void> open_chunk(ByteSpan chunk, const PackPage& page, const PageHashes* hashes,
                          MutablePageSpan to);
  /// The concatenated chunks of these pages, and nothing else. REQUIRES: `to` has room for them.
  Result<void> open_chunks(ByteSpan chunks, std::span<const PackPage> pages,
                           const PageHashes* hashes, MutableByteSpan to);
  /// As PackCodec::decode() says, and kHashMismatch.
  Result<void> open_pack(PackCodec& codec, ByteSpan sealed, std::span<const PackPage> pages,
                         const PageHashes* hashes, MutableByteSpan to);
  /// Nothing where `local` lacks the page, or has another one under the chunk's id. Valid as long
  /// as ChunkSource::find() says.
  std::optional<PageSpan> find(const ChunkSource& local, const PackPage& page,
                               const PageHashes* hashes);

 private:
  ChunkCodec chunks_;
  Hasher hasher_;
};

}  // namespace thaw
