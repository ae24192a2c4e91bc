#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "format/chunk.h"
#include "format/manifest.h"
#include "format/pack.h"
#include "format/store_id.h"

namespace thaw {

/// The messages between a page server and its peers as plain values; the Cap'n Proto schema is
/// wire.capnp. A message on the wire is a 16-byte head, the Cap'n Proto part, and a body of raw
/// bytes whose meaning the message gives. Every request is answered by exactly one reply with its
/// request id; a reply of Error answers any request.
namespace message {

inline constexpr std::uint16_t kVersion = 2;

/// What a connection is for. Those for pages have their own threads at the server.
enum class Role : std::uint16_t { kControl = 0, kDemand = 1, kPrefetch = 2 };

// Requests, each with the reply it gets.

/// First on every connection. -> Welcome
struct Hello {
  std::uint16_t version = kVersion;
  Role role = Role::kControl;
  std::string name_space;
};
/// Starts this connection's push; an earlier one that was not committed is forgotten. -> Done
struct BeginPush {
  SnapshotSpec spec;
  std::string parent;  // name of the snapshot that it came from; empty: none
};
/// The next pages of the image in order. Body: the SHA-256 of each page that is neither zero nor
/// kept. -> Needed
struct Offer {
  PageIndex first;
  PageCount count;
  Bytes zero_bitmap;    // bit i: page first + i is zero
  Bytes kept_bitmap{};  // bit i: it is that of the parent at the same place; empty: none is
};
/// The next of the needed pages in order. Body: their chunks, sealed for kNoChunk. -> Done
struct Upload {
  std::uint32_t count = 0;
};
/// Publishes the push once every page is there. Body: its sealed cold map, or nothing.
/// -> ManifestReply
struct Commit {};
/// Snapshots in order of name, from the first one after `after`. -> Snapshots
struct ListSnapshots {
  std::string after;
};
struct ShowSnapshot {  // -> ManifestReply
  std::string name;
};
/// kBusy when restores are using it, unless it may wait for their end: then it is not found any
/// more from now on, and its memory goes after the last of them. -> Done
struct DeleteSnapshot {
  std::string name;
  bool when_unused = false;
};
struct GetPageMap {  // -> PageMapSegment
  SnapshotId snapshot;
  std::uint32_t segment = 0;
};
/// The server makes them of the chunks, which takes a while. -> PageHashes
struct GetPageHashes {
  SnapshotId snapshot;
  std::uint32_t segment = 0;
};
/// At most limits::kMaxChunksPerRequest. The last `optional` ids are neighbours that ride along
/// only if the server has them at hand. -> Chunks
struct GetChunks {
  std::vector<ChunkId> ids;
  std::uint16_t optional = 0;
};
struct GetStatistics {};  // -> Statistics

/// Body: a sealed recording of this snapshot, from which its working set is made anew. -> Done
struct PutRecording {
  SnapshotId snapshot;
};
struct GetRecording {  // -> RecordingReply
  SnapshotId snapshot;
  std::uint64_t number = 0;
};
/// kNotFound when there is none. -> WorkingSetReply
struct GetWorkingSet {
  SnapshotId snapshot;
};
struct ShowWorkingSet {  // -> WorkingSetReport
  SnapshotId snapshot;
};
/// Removes the working set with all recordings and counters. -> Done
struct DropWorkingSet {
  SnapshotId snapshot;
};
/// kNotFound when the set of that generation has been replaced. -> PackReply
struct GetPack {
  SnapshotId snapshot;
  std::uint64_t generation = 0;
  std::uint32_t number = 0;
};
/// What came of prefetching for one session, or for all of a snapshot together.
struct PrefetchCounters {
  std::uint64_t sessions = 0;
  std::uint64_t set_pages = 0;         // of the sets that they had
  std::uint64_t prefetched_pages = 0;  // brought before anybody asked, zero pages included
  std::uint64_t late_pages = 0;        // demanded while on their way
  std::uint64_t faults = 0;            // demands of all kinds
  std::uint64_t bytes = 0;             // of packs
  friend bool operator==(const PrefetchCounters&, const PrefetchCounters&) = default;
};
struct PutPrefetchReport {  // -> Done
  SnapshotId snapshot;
  PrefetchCounters counters;
};

/// A name that can be moved from one snapshot to another, "name:tag". Stands for the snapshot
/// wherever one is named, except for deleting it.
struct Tag {
  std::string tag;
  std::string name;  // of the snapshot
  friend bool operator==(const Tag&, const Tag&) = default;
};
struct MoveTag {  // -> Done
  Tag to;
};
struct RemoveTag {  // -> Done
  std::string tag;
};
/// Tags in order, from the first one after `after`. -> Tags
struct ListTags {
  std::string after;
};
/// Sets labels of a snapshot, those of other keys stay but for the removed ones. -> ManifestReply
struct ChangeLabels {
  std::string name;
  std::vector<Label> set;
  std::vector<std::string> remove;  // keys
};
/// What a snapshot takes up; without a name: all of the namespace together. -> Usage
struct GetUsage {
  std::string name;
};
struct GetNamespace {};  // -> NamespaceReport
/// Deletes the connection's namespace. kBusy when it has anything, or other connections use it.
/// -> Done
struct RemoveNamespace {};
/// Bounds of a namespace, and which snapshots are deleted on their own; 0 is no bound.
struct NamespaceSettings {
  std::uint64_t quota_bytes = 0;      // of all that is stored
  std::uint64_t quota_snapshots = 0;  // how many
  /// The newest so many stay, and what is younger than this; with only one of the two, all others
  /// go. Tagged snapshots and those that restores are using stay in any case.
  std::uint64_t keep_last = 0;
  std::uint64_t keep_seconds = 0;
  std::string keep_per_label =
      {};  // counts for each value of this label on its own; empty: for all
  friend bool operator==(const NamespaceSettings&, const NamespaceSettings&) = default;
};
struct SetNamespace {  // -> Done
  NamespaceSettings settings;
};

/// Work on the whole store or namespace that takes long. One at a time.
enum class JobKind : std::uint16_t {
  kCollect = 0,  // delete chunks that no snapshot has
  kScrub = 1,    // read and verify everything
  kRetain = 2,   // delete what the namespace's settings do not keep
  kBackup = 3,   // copy the whole store, consistently
  kCompact = 4,  // give unused space back to the file system
};
inline constexpr std::size_t kJobKinds = 5;
/// kBusy while one of the namespace waits or runs. -> JobReport
struct StartJob {
  JobKind kind = JobKind::kCollect;
  bool dry_run = false;  // only say what would be done
  std::string target;    // of a backup: its name
  /// Of kRetain: what is outdated is deleted now, all of it, and not first marked for a day.
  bool at_once = false;
};
struct GetJob {  // -> JobReport
  std::uint64_t number = 0;
};
struct StopJob {  // -> Done
  std::uint64_t number = 0;
};

/// As long as the connection lasts, or until it is unpinned, the snapshot's memory stays. Not on
/// prefetch connections. kNotFound when it is not there any more. -> Done
struct Pin {
  SnapshotId snapshot;
};
struct Unpin {  // -> Done
  SnapshotId snapshot;
};

/// kNotFound when the snapshot was pushed without one. -> ColdMapReply
struct GetColdMap {
  SnapshotId snapshot;
};

/// What came damaged: chunks, at most limits::kMaxChunksPerRequest, a snapshot's page map or
/// working set, and packs, at most limits::kMaxPacksPerReport. The server believes nothing of it:
/// some time later it reads them itself, and what is damaged there is treated as a scrub would. ->
/// Done
struct ReportDamage {
  std::vector<ChunkId> chunks;
  SnapshotId snapshot;  // 0: none
  std::vector<PackId> packs{};
};

// Replies.

struct ErrorReply {
  ErrorCode code = ErrorCode::kIo;
  std::string text;
};
struct Welcome {
  std::uint16_t version = kVersion;
  StoreId store{};  // of the server
};
struct Done {};
struct Needed {
  Bytes missing_bitmap;  // bit i: the i-th offered hash must be uploaded
};
/// Body: one sealed manifest.
struct ManifestReply {};
/// A snapshot that its namespace's settings do not keep, and since when it is marked so. It is
/// deleted a day later.
struct OutdatedSnapshot {
  SnapshotId snapshot;
  std::uint64_t since_unix_ms = 0;
  friend bool operator==(const OutdatedSnapshot&, const OutdatedSnapshot&) = default;
};
/// Body: sealed manifests of these sizes.
struct Snapshots {
  std::vector<std::uint32_t> manifest_bytes;
  bool more = false;
  std::vector<OutdatedSnapshot> outdated = {};  // those of them that are
};
/// Body: one sealed page map segment.
struct PageMapSegment {};
/// Body: the SHA-256 of each page of the segment that is not zero, in order.
struct PageHashes {};
/// Body: the chunks in the order of the request, up to the first optional one that was not at hand.
struct Chunks {
  std::uint32_t count = 0;
};
struct Statistics {
  std::uint64_t snapshots = 0;
  std::uint64_t logical_bytes = 0;  // of all snapshots, memory and state
  std::uint64_t zero_bytes = 0;
  std::uint64_t chunks = 0;
  std::uint64_t chunk_bytes = 0;  // stored, headers included
  std::uint64_t connections = 0;
  std::uint64_t chunks_served = 0;
  std::uint64_t uptime_seconds = 0;
  std::uint64_t pack_bytes = 0;  // of working sets, beside the chunks
  std::uint64_t packs_served = 0;
  std::uint64_t document_bytes = 0;   // of names, manifests, page maps and cold maps
  std::uint64_t recording_bytes = 0;  // of recordings and working sets, beside their packs
};
/// Body: one sealed recording.
struct RecordingReply {};
/// Body: one sealed working set.
struct WorkingSetReply {};
/// Body: one sealed pack.
struct PackReply {};
/// Body: one sealed cold map.
struct ColdMapReply {};
/// A recording, and how well the working set would have done that was there before it.
struct RecordingSummary {
  std::uint64_t number = 0;
  std::uint64_t created_unix_ms = 0;
  std::uint32_t pages = 0;      // touched
  std::uint32_t set_pages = 0;  // in that set; 0: there was none
  std::uint32_t set_hits = 0;   // of them, touched
  friend bool operator==(const RecordingSummary&, const RecordingSummary&) = default;
};
struct WorkingSetReport {
  std::vector<RecordingSummary> recordings;  // oldest first
  PrefetchCounters totals;
};
struct Tags {
  std::vector<Tag> tags;
  bool more = false;
};
/// Bytes of pages, as they are in memory: logical = zero + duplicate + unique.
struct Usage {
  std::uint64_t snapshots = 0;
  std::uint64_t logical_bytes = 0;
  std::uint64_t zero_bytes = 0;
  std::uint64_t duplicate_bytes = 0;  // of pages equal to one that was counted as unique
  std::uint64_t unique_bytes = 0;
  std::uint64_t stored_bytes = 0;     // of the unique pages' chunks
  std::uint64_t exclusive_bytes = 0;  // of the chunks that deleting would free
  friend bool operator==(const Usage&, const Usage&) = default;
};
struct NamespaceReport {
  NamespaceSettings settings;
  std::uint64_t snapshots = 0;
  std::uint64_t stored_bytes = 0;    // what the quota counts
  std::uint64_t recorded_bytes = 0;  // of it, recordings, working sets and packs
  std::uint64_t recorded_share = 0;  // what these may have
};
enum class JobState : std::uint16_t { kRunning = 0, kDone = 1, kFailed = 2 };
struct JobCounter {
  std::string name;
  std::uint64_t value = 0;
};
struct JobReport {
  std::uint64_t number = 0;
  JobKind kind = JobKind::kCollect;
  JobState state = JobState::kRunning;
  std::uint64_t done = 0;  // of total, in a unit of the job's own
  std::uint64_t total = 0;
  ErrorReply error;                  // when it failed
  std::vector<JobCounter> counters;  // what came of it
  std::vector<std::string> findings;
};

}  // namespace message

using Message = std::variant<
    message::Hello, message::BeginPush, message::Offer, message::Upload, message::Commit,
    message::ListSnapshots, message::ShowSnapshot, message::DeleteSnapshot, message::GetPageMap,
    message::GetChunks, message::GetStatistics, message::PutRecording, message::GetRecording,
    message::GetWorkingSet, message::ShowWorkingSet, message::DropWorkingSet, message::GetPack,
    message::PutPrefetchReport, message::MoveTag, message::RemoveTag, message::ListTags,
    message::ChangeLabels, message::GetUsage, message::GetNamespace, message::SetNamespace,
    message::StartJob, message::GetJob, message::StopJob, message::Pin, message::Unpin,
    message::GetColdMap, message::ReportDamage, message::RemoveNamespace, message::GetPageHashes,
    message::ErrorReply, message::Welcome, message::Done, message::Needed, message::ManifestReply,
    message::Snapshots, message::PageMapSegment, message::Chunks, message::Statistics,
    message::RecordingReply, message::WorkingSetReply, message::PackReply,
    message::WorkingSetReport, message::Tags, message::Usage, message::NamespaceReport,
    message::JobReport, message::ColdMapReply, message::PageHashes>;

/// The 16 bytes before every message.
inline constexpr std::size_t kWireHeadBytes = 16;
struct WireHead {
  std::size_t header_bytes;  // of the Cap'n Proto part; a multiple of 8
  std::size_t body_bytes;
};
/// kBadMagic, kMalformed, or kTooLarge before anything is allocated.
Result<WireHead> decode_wire_head(std::span<const std::byte, kWireHeadBytes> bytes);

/// Appends head and Cap'n Proto part; the caller sends them and then `body_bytes` of body.
/// REQUIRES: the message and its body keep the limits.
void encode_message(const Message& message, std::uint64_t request_id, std::size_t body_bytes,
                    Bytes& to);

/// The same for message::GetChunks, from ids that lie somewhere else; allocates nothing but room
/// in `to`.
void encode_get_chunks(std::span<const ChunkId> ids, std::uint16_t optional,
                       std::uint64_t request_id, Bytes& to);

struct Envelope {
  std::uint64_t request_id;
  Message message;
};
/// Decodes the Cap'n Proto part. `bytes` are 8-byte aligned. kMalformed for bytes that Cap'n Proto
/// refuses, kTooLarge for lists beyond their limit, kUnsupported for a message this build does not
/// know.
Result<Envelope> decode_message(ByteSpan bytes);

/// Bitmaps inside messages: bit i is bit i % 8 of byte i / 8.
inline bool bit(ByteSpan bitmap, std::size_t i) {
  return (std::to_integer<unsigned>(bitmap[i / 8]) >> (i % 8) & 1) != 0;
}
inline void set_bit(Bytes& bitmap, std::size_t i) { bitmap[i / 8] |= std::byte(1 << (i % 8)); }
inline Bytes empty_bitmap(std::size_t bits) { return Bytes((bits + 7) / 8); }

/// The reply that tells a peer of an error, and the error such a reply stands for.
message::ErrorReply to_reply(const Error& error);
Error from_reply(const message::ErrorReply& reply);

}  // namespace thaw
