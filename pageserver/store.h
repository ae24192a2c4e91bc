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
  /// Removes manifest, name and page map; chunks stay.
  virtual Result<void> remove(NamespaceId name_space, const std::string& name) = 0;
};

}  // namespace thaw
