#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "format/chunk.h"
#include "format/hash.h"
#include "format/manifest.h"
#include "format/page_map.h"
#include "format/wire.h"
#include "pageserver/chunk_set.h"
#include "pageserver/store.h"

namespace thaw {

/// One snapshot being received: offers name the pages in order by hash, uploads bring those that
/// the namespace lacks, and the page map grows from what the store answers. A client never names a
/// chunk id, and every uploaded page is hashed here. Until commit() nothing of it is visible; a
/// push that is dropped leaves only chunks that the next one finds.
///
/// One thread at a time. The methods marked [writer] write to the store and run where its writes
/// are serialised.
class Push {
 public:
  /// `parent` is the snapshot that this one came from, if any. REQUIRES: check_spec(spec).
  Push(Store& store, NamespaceId name_space, SnapshotSpec spec, SnapshotId parent = {});

  /// kProtocol when the pages are not the next ones, or uploads are still due.
  Result<message::Needed> offer(const message::Offer& offer, ByteSpan hashes);
  /// Decodes and hashes the next `count` needed pages. kHashMismatch, kProtocol, decode errors.
  Result<void> check_upload(std::uint32_t count, ByteSpan chunks);
  /// [writer] Stores what check_upload() accepted.
  Result<void> store_upload();
  /// [writer] kProtocol when pages are missing, kAlreadyExists when the name was taken meanwhile.
  Result<Manifest> commit();

  NamespaceId name_space() const { return name_space_; }
  /// Stored for this push alone, unless it was committed.
  std::uint64_t uncommitted_bytes() const { return committed_ ? 0 : statistics_.new_chunk_bytes; }
  /// Adds the chunks that it stands on: those of the map so far, and those that a look-up has
  /// found. Any thread.
  void mark(ChunkSet& to) const;

 private:
  /// The pages of the last offer, until the last of them has a chunk.
  struct Pending {
    std::vector<bool> zero;            // by page
    std::vector<Sha256> hashes;        // by page that is not zero
    std::vector<ChunkId> chunks;       // by hash; kNoChunk while not known
    std::vector<std::size_t> same_as;  // by hash: the first hash equal to it
    std::vector<std::size_t> missing;  // indices into hashes, in order
    std::size_t uploaded = 0;          // how many of `missing` are stored
  };
  void apply_pending();
  bool waiting_for_uploads() const { return pending_.uploaded < pending_.missing.size(); }

  Store& store_;
  const NamespaceId name_space_;
  const SnapshotSpec spec_;
  const SnapshotId parent_;

  mutable std::mutex mutex_;  // held from looking pages up until they are in map_ or pending_
  PageMap map_;               // guarded by mutex_, as is pending_
  ContentHash content_hash_;
  PushStatistics statistics_;
  bool committed_ = false;
  Pending pending_;
  std::vector<NewChunk> checked_;
  ChunkCodec codec_;
  Hasher hasher_;
};

}  // namespace thaw
