#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "format/chunk.h"
#include "format/manifest.h"
#include "format/page_map.h"
#include "format/wire.h"
#include "format/working_set.h"

namespace thaw {

/// A namespace's number: the top bits of the ids of its chunks. From 1.
struct NamespaceId {
  std::uint16_t value = 0;
  friend constexpr auto operator<=>(NamespaceId, NamespaceId) = default;
};

/// Chunks read in one go. The spans are valid as long as this object lives.
struct ChunkRead {
  std::vector<ByteSpan> chunks;
  std::shared_ptr<const void> pin;
};

/// A verified page on its way into the store.
struct NewChunk {
  Sha256 hash;
  PlainPage plain;
  Bytes chunk;  // sealed for kNoChunk
};
struct StoredChunk {
  ChunkId id;
  bool is_new;  // false: the namespace had it already
};

struct NamespaceTotals {
  std::uint64_t chunks = 0;
  std::uint64_t chunk_bytes = 0;
  std::uint64_t pack_bytes = 0;  // of working sets that were published, replaced ones included
};

struct PackId {
  SnapshotId snapshot;
  std::uint64_t generation = 0;
  std::uint32_t number = 0;
};

/// A pack read; the span is valid as long as this object lives.
struct PackRead {
  ByteSpan pack;
  std::shared_ptr<const void> pin;
};

/// What a snapshot's working set stands on.
struct WorkingSetState {
  /// The highest number that a recording was given, 0 before the first. Numbers are not used again.
  std::uint64_t last_recording = 0;
  std::vector<message::RecordingSummary> recordings;  // those that are there, oldest first
  std::optional<std::uint64_t> generation;            // of the set; nothing when there is none
  friend bool operator==(const WorkingSetState&, const WorkingSetState&) = default;
};

/// A recording on its way into the store, with what becomes of the older ones.
struct NewRecording {
  message::RecordingSummary summary;
  Bytes sealed;
  std::uint64_t oldest_kept = 0;  // those with lower numbers are deleted
};

/// Where recordings and the working sets made of them live, a part of the store. Threads and errors
/// as Store says. Everything of a snapshot goes with it.
class WorkingSetStore {
 public:
  virtual ~WorkingSetStore() = default;

  virtual Result<WorkingSetState> state(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// A sealed recording; kNotFound.
  virtual Result<Bytes> recording(NamespaceId name_space, SnapshotId snapshot,
                                  std::uint64_t number) = 0;
  /// The sealed working set; kNotFound.
  virtual Result<Bytes> working_set(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// A sealed pack of the set or of the one before it; kNotFound.
  virtual Result<PackRead> pack(NamespaceId name_space, const PackId& id) = 0;
  /// The sum of all reports of the snapshot.
  virtual Result<message::PrefetchCounters> counters(NamespaceId name_space,
                                                     SnapshotId snapshot) = 0;

  /// Stores a pack of a set that is to be published. Not yet synced. One whose set never comes is
  /// deleted with the next that does.
  virtual Result<void> put_pack(NamespaceId name_space, const PackId& id, ByteSpan pack) = 0;
  /// Makes a set visible and durable in one step, together with the recording that it was made for
  /// and all packs put before. The packs of the set before it stay, older ones are deleted.
  /// REQUIRES: a generation above that of the set that is there.
  virtual Result<void> publish(NamespaceId name_space, const WorkingSet& set,
                               const std::optional<NewRecording>& recording) = 0;
  /// Deletes set, packs, recordings and counters; what is not there is fine.
  virtual Result<void> drop(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// Adds to the counters. Not synced.
  virtual Result<void> add(NamespaceId name_space, SnapshotId snapshot,
                           const message::PrefetchCounters& report) = 0;
};

/// Where snapshots live, and the only thing that the server's core knows of it. Reads may run on
/// any number of threads; writes (the last group) on one thread at a time, which the caller sees
/// to. Every name and id given has been checked for form. kNoSpace, kIo and kCorrupt can come of
/// every call.
class Store {
 public:
  virtual ~Store() = default;

  virtual Result<std::optional<NamespaceId>> find_namespace(const std::string& name) = 0;
  virtual Result<NamespaceTotals> totals(NamespaceId name_space) = 0;
  /// The chunk of each hash, kNoChunk where there is none.
  virtual Result<std::vector<ChunkId>> find_chunks(NamespaceId name_space,
                                                   std::span<const Sha256> hashes) = 0;
  /// Reads chunks in the order of `ids`. Of the last `optional` ones it reads what is in memory
  /// (nothing waits for a disk) and leaves out the rest from the first on that is not. kNotFound
  /// names the first id that is not there. REQUIRES: optional <= ids.size().
  virtual Result<ChunkRead> read_chunks(std::span<const ChunkId> ids, std::size_t optional) = 0;
  /// The sealed manifest of a snapshot, as stored; kNotFound.
  virtual Result<Bytes> manifest(NamespaceId name_space, const std::string& name) = 0;
  virtual Result<Bytes> manifest(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// Sealed manifests in order of name, from the first name after `after`, at most `most`.
  virtual Result<std::vector<Bytes>> manifests(NamespaceId name_space, const std::string& after,
                                               std::size_t most) = 0;
  /// A sealed segment; kNotFound.
  virtual Result<Bytes> page_map_segment(NamespaceId name_space, SnapshotId snapshot,
                                         std::uint32_t segment) = 0;

  /// The namespace of this name, made if there is none yet.
  virtual Result<NamespaceId> open_namespace(const std::string& name) = 0;
  /// Stores chunks under new, ascending ids, but those whose hash is there already. Not yet
  /// synced: they survive a crash from the next publish() on.
  virtual Result<std::vector<StoredChunk>> put_chunks(NamespaceId name_space,
                                                      std::span<NewChunk> chunks) = 0;
  /// Gives the snapshot its id and makes it visible and durable in one step, together with all
  /// chunks put before. kAlreadyExists when the name is taken.
  virtual Result<Manifest> publish(NamespaceId name_space, Manifest manifest,
                                   const PageMap& map) = 0;
  /// Removes manifest, name, page map and everything of the working set; chunks stay.
  virtual Result<void> remove(NamespaceId name_space, const std::string& name) = 0;

  virtual WorkingSetStore& working_sets() = 0;
};

}  // namespace thaw
