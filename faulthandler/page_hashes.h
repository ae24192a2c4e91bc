#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "format/hash.h"
#include "format/page_client.h"
#include "format/page_map.h"

namespace thaw {

/// A page server that lies brings pages whose checksums are right. The SHA-256 of every page,
/// which a content hash stands for, tells them apart. The hashes lie in a memory file, those of
/// zero pages left out. Immutable; any thread.
class PageHashes {
 public:
  /// Those of the pages of `map` that are not zero, in order, from `offset` of the file on.
  /// kMalformed when `size` is not theirs.
  static Result<PageHashes> open(const UniqueFd& file, ByteCount offset, ByteCount size,
                                 const PageMap& map);
  /// What the hashes take of the file, and what is needed beside to find them.
  static ByteCount file_bytes(const PageMap& map);
  static ByteCount index_bytes(PageCount pages);

  /// kHashMismatch when it is another page. REQUIRES: page is one of the map.
  Result<void> check(PageIndex page, PageSpan plain, Hasher& hasher) const;

 private:
  PageHashes(Mapping file, ByteSpan hashes) : file_(std::move(file)), hashes_(hashes) {}
  /// Nothing: the page is zero.
  const Sha256* find(PageIndex page) const;

  Mapping file_;
  ByteSpan hashes_;
  std::vector<std::uint64_t> stored_;  // a bit for each page: whether it is not zero
  std::vector<std::uint32_t> before_;  // for 64 pages each, how many before them are not zero
};

/// Called with the hashes of a segment's pages that are not zero, segment by segment.
using HashSink = std::function<Result<void>(ByteSpan hashes)>;

/// Fetches the hashes of all pages that are not zero by `map`. kHashMismatch when they, with the
/// zero pages, are not what the manifest's content hash names: then the sink was given nonsense.
/// Errors of the client and the sink. REQUIRES: the manifest's content hash is by segments.
Result<void> fetch_page_hashes(PageClient& client, const Manifest& manifest, const PageMap& map,
                               const HashSink& sink);

}  // namespace thaw
