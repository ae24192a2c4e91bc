#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "format/chunk.h"
#include "format/cold_map.h"
#include "format/manifest.h"
#include "format/pack.h"
#include "format/page_map.h"
#include "format/wire.h"
#include "format/working_set.h"
#include "pageserver/chunk_set.h"

namespace thaw {

/// A namespace's number: the top bits of the ids of its chunks. From 1.
struct NamespaceId {
  std::uint16_t value = 0;
  friend constexpr auto operator<=>(NamespaceId, NamespaceId) = default;
};

/// Chunks read in one go. The spans are valid as long as this object lives; the store outlives it.
struct ChunkRead {
  std::vector<ByteSpan> chunks;
  std::shared_ptr<const void> pin;
};

/// The same, but each with an outcome of its own.
struct EachChunkRead {
  std::vector<Result<ByteSpan>> chunks;
  std::shared_ptr<const void> pin;
};

/// A verified page on its way into the store. The spans are the caller's.
struct NewChunk {
  Sha256 hash;
  PageSpan plain;
  ByteSpan chunk;  // sealed for kNoChunk
};
struct StoredChunk {
  ChunkId id;
  bool is_new;  // false: the namespace had it already
};

/// Asked before a write by how much what pushes have stored grows, if it does; its error refuses
/// the write. The writing thread's.
using GrowthAdmission = std::function<Result<void>(ByteCount more)>;

/// What a namespace has stored.
struct NamespaceTotals {
  std::uint64_t chunks = 0;
  std::uint64_t chunk_bytes = 0;
  std::uint64_t document_bytes = 0;   // names, tags, manifests, page maps, cold maps; with keys
  std::uint64_t recording_bytes = 0;  // recordings, working sets and their counters; with keys
  std::uint64_t pack_bytes = 0;       // of working sets, replaced and unfinished ones included

  /// What pushes have stored, and what restores have.
  std::uint64_t pushed_bytes() const { return chunk_bytes + document_bytes; }
  std::uint64_t recorded_bytes() const { return recording_bytes + pack_bytes; }
  std::uint64_t bytes() const { return pushed_bytes() + recorded_bytes(); }
  friend bool operator==(const NamespaceTotals&, const NamespaceTotals&) = default;
};

/// A pack read; the span is valid as long as this object lives; the store outlives it.
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
///
/// Together they have a share of the namespace's quota (working_set_share()). Where it is full, or
/// pushes need the room, those of the oldest snapshots go: the next restore records again. A new
/// one takes nothing from younger snapshots; it is refused instead.
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

  /// Stores packs of a set that is to be published, from the number of `first` on. Not yet synced.
  /// Pack 0 takes the place of all that were put for this generation before. kQuotaExceeded.
  /// REQUIRES: the snapshot is there; numbers count up from 0.
  virtual Result<void> put_packs(NamespaceId name_space, const PackId& first,
                                 std::span<const Bytes> packs) = 0;
  /// Deletes packs that were put and whose set was not published.
  virtual Result<void> discard_packs(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// Makes a set visible and durable in one step, together with the recording that it was made for
  /// and all packs put before. The packs of the set before it stay, older ones are deleted. kBusy
  /// when the packs put are not the set's: they were deleted meanwhile. kQuotaExceeded.
  /// REQUIRES: a generation above that of the set that is there.
  virtual Result<void> publish(NamespaceId name_space, const WorkingSet& set,
                               const std::optional<NewRecording>& recording) = 0;
  /// Deletes set and packs, which are no good; recordings and counters stay, so that the set can be
  /// made again of them. What is not there is fine.
  virtual Result<void> withdraw(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// Deletes one recording, which is no good; its number is not used again.
  virtual Result<void> drop_recording(NamespaceId name_space, SnapshotId snapshot,
                                      std::uint64_t number) = 0;
  /// Deletes set, packs, recordings and counters; what is not there is fine.
  virtual Result<void> drop(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// Adds to the counters. Not synced.
  virtual Result<void> add(NamespaceId name_space, SnapshotId snapshot,
                           const message::PrefetchCounters& report) = 0;
};

/// A page that a hash leads to.
struct KnownPage {
  Sha256 hash;
  ChunkId chunk;
};

/// A namespace's chunks as those see them who delete or check them, a part of the store. Threads
/// and errors as Store says.
///
/// A chunk that a hash leads to can be met by any push. One that no hash leads to is in use by
/// snapshots alone, or it is *condemned*: that is recorded before the hash goes, and stays until
/// the chunk itself goes. A *quarantined* chunk is damaged or lost: its hash leads nowhere until a
/// push brings the page again, which puts it back under the same id.
class ChunkUpkeep {
 public:
  virtual ~ChunkUpkeep() = default;

  using VisitPage = std::function<Result<bool>(const KnownPage& page)>;
  /// Calls `visit` with every page that a hash leads to, and those in quarantine, until it returns
  /// false.
  virtual Result<void> for_each_page(NamespaceId name_space, const VisitPage& visit) = 0;
  /// Reads chunks in the order of `ids`, each on its own: kNotFound, or kCorrupt or kIo for one
  /// that cannot be read, says nothing of the others.
  virtual EachChunkRead read_each(std::span<const ChunkId> ids) = 0;
  /// What is there, counted.
  virtual Result<NamespaceTotals> count(NamespaceId name_space) = 0;
  virtual Result<ChunkSet> condemned(NamespaceId name_space) = 0;
  virtual Result<std::vector<KnownPage>> quarantined(NamespaceId name_space) = 0;
  /// Where a check of all chunks goes on; kNoChunk: at the beginning.
  virtual Result<ChunkId> checked_up_to(NamespaceId name_space) = 0;

  /// No chunk has this id or a higher one yet.
  virtual Result<ChunkId> next_chunk(NamespaceId name_space) = 0;
  /// Records which chunks are condemned from now on, instead of those that were.
  virtual Result<void> condemn(NamespaceId name_space, const ChunkSet& chunks) = 0;
  /// Pushes do not meet these pages any more. One that was stored anew since, as another chunk,
  /// stays. REQUIRES: the chunks are condemned.
  virtual Result<void> forget(NamespaceId name_space, std::span<const KnownPage> pages) = 0;
  /// Deletes condemned chunks; returns how many bytes they had. REQUIRES: they are forgotten.
  virtual Result<ByteCount> sweep(NamespaceId name_space, std::span<const ChunkId> ids) = 0;
  virtual Result<void> quarantine(NamespaceId name_space, std::span<const KnownPage> pages) = 0;
  /// A hash leads to each of these chunks again, and they are in quarantine no more.
  virtual Result<void> make_known(NamespaceId name_space, std::span<const KnownPage> pages) = 0;
  /// Corrects what totals() says.
  virtual Result<void> set_totals(NamespaceId name_space, const NamespaceTotals& totals) = 0;
  virtual Result<void> set_checked_up_to(NamespaceId name_space, ChunkId id) = 0;
};

/// Since when snapshots are outdated, in milliseconds since 1970 of the credible time.
using OutdatedMarks = std::map<SnapshotId, std::uint64_t>;
/// From when the ages of snapshots count whose created times may be wrong, in milliseconds since
/// 1970; 0: from when the wall clock has settled.
using AgeStarts = std::map<SnapshotId, std::uint64_t>;
/// Whether the wall clock had settled when a snapshot was pushed.
enum class CreatedTime { kCredible, kDoubtful };

struct NamedNamespace {
  std::string name;
  NamespaceId id;
};

/// Whether this process could not look: it says nothing of what is stored.
inline bool is_shortage(const Error& error) {
  return error.code() == ErrorCode::kNoDescriptors || error.code() == ErrorCode::kNoMemory;
}

/// Where snapshots live, and the only thing that the server's core knows of it. Reads may run on
/// any number of threads; writes (the last group) on one thread at a time, which the caller sees
/// to. Every name and id given has been checked for form. kNoSpace, kIo and kCorrupt can come of
/// every call.
class Store {
 public:
  virtual ~Store() = default;

  virtual Result<std::optional<NamespaceId>> find_namespace(const std::string& name) = 0;
  virtual Result<std::vector<NamedNamespace>> namespaces() = 0;
  virtual Result<message::NamespaceSettings> settings(NamespaceId name_space) = 0;
  virtual Result<NamespaceTotals> totals(NamespaceId name_space) = 0;
  /// The chunk of each hash, kNoChunk where there is none.
  virtual Result<std::vector<ChunkId>> find_chunks(NamespaceId name_space,
                                                   std::span<const Sha256> hashes) = 0;
  /// Reads chunks in the order of `ids`. Of the last `optional` ones it reads what is in memory
  /// (nothing waits for a disk) and leaves out the rest from the first on that is not. kNotFound
  /// names the first id that is not there. REQUIRES: optional <= ids.size().
  virtual Result<ChunkRead> read_chunks(std::span<const ChunkId> ids, std::size_t optional) = 0;
  /// The sealed manifest of a snapshot, as stored, by its name or a tag; kNotFound.
  virtual Result<Bytes> manifest(NamespaceId name_space, const std::string& name) = 0;
  virtual Result<Bytes> manifest(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// How much of a listing is read. The manifest that reaches `bytes` is the last.
  struct ListingPart {
    std::size_t most;
    std::size_t bytes;
    bool filled_by(std::size_t count, std::size_t size) const {
      return count >= most || size >= bytes;
    }
  };
  /// Sealed manifests in order of name, from the first name after `after`.
  virtual Result<std::vector<Bytes>> manifests(NamespaceId name_space, const std::string& after,
                                               const ListingPart& part) = 0;
  /// The snapshot of this name, which is no tag; kNotFound.
  virtual Result<SnapshotId> find_snapshot(NamespaceId name_space, const std::string& name) = 0;
  /// Every snapshot above `after` in order of id, retired ones included.
  virtual Result<std::vector<SnapshotId>> snapshots(NamespaceId name_space, SnapshotId after) = 0;
  virtual Result<std::vector<SnapshotId>> retired(NamespaceId name_space) = 0;
  /// How many have a name.
  virtual Result<std::uint64_t> named_snapshots(NamespaceId name_space) = 0;
  /// Tags in order, from the first after `after`, at most `most`.
  virtual Result<std::vector<message::Tag>> tags(NamespaceId name_space, const std::string& after,
                                                 std::size_t most) = 0;
  /// What belongs to snapshots that are not there, a line each.
  virtual Result<std::vector<std::string>> strays(NamespaceId name_space) = 0;
  virtual Result<bool> is_tagged(NamespaceId name_space, SnapshotId snapshot) = 0;
  /// The snapshots that are marked as outdated, and since when.
  virtual Result<OutdatedMarks> outdated_marks(NamespaceId name_space) = 0;
  virtual Result<AgeStarts> age_starts(NamespaceId name_space) = 0;
  /// The largest time recorded by set_last_time() or as that of a snapshot; 0: none.
  virtual Result<std::uint64_t> last_time_unix_ms() = 0;
  /// A sealed segment; kNotFound.
  virtual Result<Bytes> page_map_segment(NamespaceId name_space, SnapshotId snapshot,
                                         std::uint32_t segment) = 0;
  /// The sealed cold map; kNotFound.
  virtual Result<Bytes> cold_map(NamespaceId name_space, SnapshotId snapshot) = 0;

  /// The namespace of this name, made if there is none yet. kLimitExceeded.
  virtual Result<NamespaceId> open_namespace(const std::string& name) = 0;
  /// Removes a namespace and its settings. Its number may be given to another one some time; ids
  /// are not given again. kNotFound, kBusy with what it still has when it is not empty.
  virtual Result<void> remove_namespace(const std::string& name) = 0;
  /// Takes every mark in it away: what is outdated by these settings is marked anew.
  virtual Result<void> set_settings(NamespaceId name_space,
                                    const message::NamespaceSettings& settings) = 0;
  /// Stores chunks under new, ascending ids, but those whose hash is there already. Not yet
  /// synced: they survive a crash from the next publish() on. kQuotaExceeded, here and below what
  /// `admit` says too.
  virtual Result<std::vector<StoredChunk>> put_chunks(NamespaceId name_space,
                                                      std::span<const NewChunk> chunks,
                                                      const GrowthAdmission& admit = {}) = 0;
  /// Gives the snapshot its id and makes it visible and durable in one step, together with all
  /// chunks put before, and with an age start of 0 when its created time is doubtful.
  /// kAlreadyExists when the name is taken, kQuotaExceeded.
  virtual Result<Manifest> publish(NamespaceId name_space, Manifest manifest, const PageMap& map,
                                   const ColdMap& cold, const GrowthAdmission& admit = {},
                                   CreatedTime created = CreatedTime::kCredible) = 0;
  /// Puts other labels into a snapshot's manifest; returns it. kQuotaExceeded.
  virtual Result<Manifest> set_labels(NamespaceId name_space, const std::string& name,
                                      std::vector<Label> labels,
                                      const GrowthAdmission& admit = {}) = 0;
  /// Makes a tag stand for this snapshot, whatever it stood for before, and takes its mark away.
  /// kNotFound, kQuotaExceeded.
  virtual Result<void> move_tag(NamespaceId name_space, const message::Tag& to,
                                const GrowthAdmission& admit = {}) = 0;
  virtual Result<void> remove_tag(NamespaceId name_space, const std::string& tag) = 0;
  /// Marks snapshots as outdated since a time, in one step. Their names stay.
  virtual Result<void> mark_outdated(NamespaceId name_space, const OutdatedMarks& marks) = 0;
  /// Takes marks away; a snapshot without one is fine.
  virtual Result<void> unmark_outdated(NamespaceId name_space,
                                       std::span<const SnapshotId> snapshots) = 0;
  /// Has ages count from these times.
  virtual Result<void> set_age_starts(NamespaceId name_space, const AgeStarts& starts) = 0;
  /// The ages of these snapshots count from their created times.
  virtual Result<void> remove_age_starts(NamespaceId name_space,
                                         std::span<const SnapshotId> snapshots) = 0;
  /// Not synced. A time before the last one changes nothing.
  virtual Result<void> set_last_time(std::uint64_t unix_ms) = 0;
  /// Takes a snapshot's name, tags and mark away; by its id it can be read still.
  virtual Result<void> retire(NamespaceId name_space, const std::string& name) = 0;
  /// Removes manifest, name, tags, mark, page map and everything of the working set; chunks stay.
  virtual Result<void> remove(NamespaceId name_space, SnapshotId snapshot) = 0;

  /// Brings all that was written out of the log and into tables, so that a start need not read it.
  virtual Result<void> flush() = 0;
  /// Gives the space of what was deleted back to the file system. Any thread; takes long.
  virtual Result<void> compact() = 0;
  /// Any thread: compactions end soon, and none begins any more.
  virtual void stop_compacting() = 0;
  virtual Result<void> compact_chunks(ChunkId first, ChunkId last) = 0;
  virtual Result<void> compact_hashes(NamespaceId name_space) = 0;
  /// Copies the store as it is now into a new directory, consistently. Any thread; takes long.
  virtual Result<void> back_up(const std::string& directory) = 0;
  /// Reads every file of the store and compares it with its checksums; a line for each that is
  /// damaged. Any thread; takes long.
  virtual std::vector<std::string> damaged_files() = 0;

  virtual ChunkUpkeep& chunk_upkeep() = 0;
  virtual WorkingSetStore& working_sets() = 0;
};

}  // namespace thaw
