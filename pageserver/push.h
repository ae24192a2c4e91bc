#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "base/clock.h"
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
/// Several offers may wait for their uploads, which come in the order of the offers. A page that an
/// offer has asked for is not asked for again. An offer may also keep pages of the parent: those
/// are read and verified here, so that the content hash is that of all pages.
///
/// One thread at a time. The methods marked [writer] write to the store and run where its writes
/// are serialised.
class Push {
 public:
  /// `parent` is the snapshot that this one came from, if any. `admit` is asked for memory before
  /// it is taken: for page maps (the parent's too), pending offers and uploads. Its error ends the
  /// push. REQUIRES: check_spec(spec).
  Push(Store& store, NamespaceId name_space, SnapshotSpec spec, SnapshotId parent = {},
       MapAdmission admit = {});

  /// kTooLarge when the page map takes more than limits::kMaxMapBytes, kLimitExceeded when this
  /// process gets no memory.
  /// kProtocol when the pages are not the next ones, or too many offers wait for uploads. For pages
  /// that are kept: kInvalidArgument when they are not of memory, or there is no parent with as
  /// much memory; kNotFound when the parent was deleted; kCorrupt when they are missing or damaged.
  Result<message::Needed> offer(const message::Offer& offer, ByteSpan hashes);
  /// Decodes and hashes the next `count` needed pages, all of one offer. `chunks` must stay until
  /// store_upload(). kHashMismatch, kProtocol, kLimitExceeded as above, decode errors.
  Result<void> check_upload(std::uint32_t count, ByteSpan chunks);
  /// [writer] Stores what check_upload() accepted. kQuotaExceeded, and what `grow` says.
  Result<void> store_upload(const GrowthAdmission& grow = {});
  /// Which pages are cold: a sealed map, or nothing. Decode errors.
  Result<void> set_cold_map(ByteSpan sealed);
  /// [writer] kProtocol when pages are missing, kAlreadyExists when the name was taken meanwhile,
  /// kQuotaExceeded, and what `grow` says.
  Result<Manifest> commit(const GrowthAdmission& grow = {},
                          std::uint64_t created_unix_ms = unix_milliseconds(),
                          CreatedTime created = CreatedTime::kCredible);

  NamespaceId name_space() const { return name_space_; }
  SnapshotId parent() const { return parent_; }  // 0: none
  /// Stored for this push alone, unless it was committed.
  std::uint64_t uncommitted_bytes() const { return committed_ ? 0 : statistics_.new_chunk_bytes; }
  /// Adds the chunks that it stands on: those of the map so far, and those that a look-up has
  /// found. Any thread.
  void mark(ChunkSet& to) const;

 private:
  /// A page that was asked for, as long as an offer that has it is pending.
  struct Asked {
    ChunkId chunk;                 // once it was uploaded
    std::uint64_t last_offer = 0;  // that has it
  };
  /// By order, since the client says what the hashes are: it could make those of a hash table
  /// collide.
  using AskedPages = std::map<Sha256, Asked>;

  /// The pages of an offer, until all of them and of those before it have a chunk.
  struct Pending {
    std::uint64_t number = 0;
    message::Offer offer;
    std::vector<Sha256> hashes;                    // by page that is not zero
    std::vector<ChunkId> chunks;                   // by hash; kNoChunk: in asked_
    std::vector<std::size_t> offered;              // the hashes that the client gave
    std::vector<std::size_t> kept;                 // those that are the parent's
    std::vector<AskedPages::value_type*> missing;  // what it asked for, in order
    std::size_t uploaded = 0;                      // how many of `missing` are stored

    bool complete() const { return uploaded == missing.size(); }
  };

  Result<void> check_size() const;
  /// Of all that the push keeps, and `more`.
  Result<void> ask_for_memory(ByteCount more = {0}) const;
  static ByteCount pending_memory(const message::Offer& offer);
  Result<void> check_offer(const message::Offer& offer) const;
  Result<void> check_kept(const message::Offer& offer) const;
  /// What a push to a parent needs of it, once; that it was deleted is no error.
  Result<void> read_parent();
  /// The offer's pages, with what the offer itself says of them: memory for all that follows.
  Result<Pending> read_offer(const message::Offer& offer, ByteSpan hashes) const;
  /// Finds out all of an offer's pages but those that are to be asked for.
  Result<void> resolve(Pending& pending);
  /// Verifies stored pages and fills in their hashes.
  Result<void> hash_stored(Pending& pending, std::span<const std::size_t> hashes);
  message::Needed ask_for_missing(Pending& pending);
  void forget_upload();
  void apply_complete();
  void apply(Pending& pending);
  void compare_with_parent();
  std::uint64_t stored_cold_pages() const;

  Store& store_;
  const NamespaceId name_space_;
  const SnapshotSpec spec_;
  const SnapshotId parent_;
  const MapAdmission admit_;
  bool parent_read_ = false;
  std::optional<Manifest> parent_manifest_;
  PageMap parent_map_;

  mutable std::mutex mutex_;     // held from looking pages up until they are in pending_
  PageMap map_;                  // guarded by mutex_
  std::deque<Pending> pending_;  // guarded by mutex_; oldest first
  AskedPages asked_;             // guarded by mutex_
  PageIndex next_;               // behind the pages of the last offer
  ColdMap cold_;
  ContentHash content_hash_{kPushedForm};
  std::optional<Sha256> finished_hash_;  // a commit that was refused may be tried again
  PushStatistics statistics_;
  bool committed_ = false;
  std::uint64_t offers_ = 0;
  std::vector<NewChunk> checked_;
  Bytes plain_;  // of the pages in checked_, as long as there are any
  ChunkCodec codec_;
  Hasher hasher_;
};

}  // namespace thaw
