#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "format/chunk.h"
#include "format/manifest.h"

namespace thaw {

/// The messages between a page server and its peers as plain values; the Cap'n Proto schema is
/// wire.capnp. A message on the wire is a 16-byte head, the Cap'n Proto part, and a body of raw
/// bytes whose meaning the message gives. Every request is answered by exactly one reply with its
/// request id; a reply of Error answers any request.
namespace message {

inline constexpr std::uint16_t kVersion = 1;

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
/// The next pages of the image in order. Body: the SHA-256 of each page that is not zero. -> Needed
struct Offer {
  PageIndex first;
  PageCount count;
  Bytes zero_bitmap;  // bit i: page first + i is zero
};
/// The next of the needed pages in order. Body: their chunks, sealed for kNoChunk. -> Done
struct Upload {
  std::uint32_t count = 0;
};
/// Publishes the push once every page is there. -> ManifestReply
struct Commit {};
/// Snapshots in order of name, from the first one after `after`. -> Snapshots
struct ListSnapshots {
  std::string after;
};
struct ShowSnapshot {  // -> ManifestReply
  std::string name;
};
struct DeleteSnapshot {  // -> Done
  std::string name;
};
struct GetPageMap {  // -> PageMapSegment
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

// Replies.

struct ErrorReply {
  ErrorCode code = ErrorCode::kIo;
  std::string text;
};
struct Welcome {
  std::uint16_t version = kVersion;
};
struct Done {};
struct Needed {
  Bytes missing_bitmap;  // bit i: the i-th offered hash must be uploaded
};
/// Body: one sealed manifest.
struct ManifestReply {};
/// Body: sealed manifests of these sizes.
struct Snapshots {
  std::vector<std::uint32_t> manifest_bytes;
  bool more = false;
};
/// Body: one sealed page map segment.
struct PageMapSegment {};
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
};
/// Body: one sealed recording.
struct RecordingReply {};
/// Body: one sealed working set.
struct WorkingSetReply {};
/// Body: one sealed pack.
struct PackReply {};
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

}  // namespace message

using Message = std::variant<
    message::Hello, message::BeginPush, message::Offer, message::Upload, message::Commit,
    message::ListSnapshots, message::ShowSnapshot, message::DeleteSnapshot, message::GetPageMap,
    message::GetChunks, message::GetStatistics, message::PutRecording, message::GetRecording,
    message::GetWorkingSet, message::ShowWorkingSet, message::DropWorkingSet, message::GetPack,
    message::PutPrefetchReport, message::ErrorReply, message::Welcome, message::Done,
    message::Needed, message::ManifestReply, message::Snapshots, message::PageMapSegment,
    message::Chunks, message::Statistics, message::RecordingReply, message::WorkingSetReply,
    message::PackReply, message::WorkingSetReport>;

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
