#include "pageserver/sys/rocks_store.h"

#include <algorithm>
#include <array>
#include <map>
#include <ranges>

#include "base/bytes.h"
#include "pageserver/sys/cached_reads.h"
#include "pageserver/sys/rocks_database.h"
#include "pageserver/sys/rocks_keys.h"
#include "pageserver/sys/rocks_working_sets.h"

namespace thaw {

namespace {

using Batch = RocksDatabase::Batch;
using Durability = RocksDatabase::Durability;

constexpr std::uint8_t kWriter = 0;
/// Chunk ids are set aside in blocks: the durable watermark stands beyond every id in use.
constexpr std::uint64_t kReservedIds = 1u << 16;

std::string hash_key(NamespaceId in, const Sha256& hash) {
  std::string key;
  append_big_endian(key, in.value, 2);
  return key.append(as_text(hash));
}
std::string name_key(NamespaceId in, const std::string& name) { return prefixed('n', in) + name; }
std::string manifest_key(NamespaceId in, SnapshotId snapshot) {
  return snapshot_key('m', in, snapshot);
}
std::string segment_key(NamespaceId in, SnapshotId snapshot, std::uint32_t segment) {
  std::string key = snapshot_key('p', in, snapshot);
  append_big_endian(key, segment, 4);
  return key;
}
std::string namespace_key(const std::string& name) { return "namespace/" + name; }

class RocksStore final : public Store {
 public:
  explicit RocksStore(std::unique_ptr<RocksDatabase> database)
      : database_(std::move(database)), working_sets_(*database_) {}

  Result<std::optional<NamespaceId>> find_namespace(const std::string& name) override {
    const auto found = TRY(database_->get_number(Family::kMeta, namespace_key(name)));
    if (!found) return std::optional<NamespaceId>();
    return std::optional(NamespaceId{static_cast<std::uint16_t>(*found)});
  }

  Result<NamespaceTotals> totals(NamespaceId in) override {
    return NamespaceTotals{
        .chunks = TRY(database_->get_number(Family::kMeta, prefixed('c', in))).value_or(0),
        .chunk_bytes = TRY(database_->get_number(Family::kMeta, prefixed('b', in))).value_or(0),
        .pack_bytes = TRY(working_sets_.pack_bytes(in))};
  }

  Result<std::vector<ChunkId>> find_chunks(NamespaceId in,
                                           std::span<const Sha256> hashes) override {
    std::vector<std::string> keys;
    keys.reserve(hashes.size());
    for (const Sha256& hash : hashes) keys.push_back(hash_key(in, hash));
    const MultiRead read = database_->multi_get(Family::kHash, keys);
    std::vector<ChunkId> chunks;
    chunks.reserve(hashes.size());
    for (std::size_t i = 0; i < hashes.size(); ++i) {
      if (read.missing(i)) {
        chunks.push_back(kNoChunk);
        continue;
      }
      if (!read.found(i)) return read.failure(i, "looking up a page");
      chunks.push_back({TRY(parse_number(read.value(i)))});
    }
    return chunks;
  }

  Result<ChunkRead> read_chunks(std::span<const ChunkId> ids, std::size_t optional) override {
    const std::size_t required = ids.size() - optional;
    std::vector<std::string> keys;
    keys.reserve(ids.size());
    for (const ChunkId id : ids) keys.push_back(number_key(id.value));
    // The first read is of everything, so that neighbours cost one look-up. What it says is not at
    // hand is read again if it is required.
    auto read = std::make_shared<std::array<MultiRead, 2>>();
    {
      const OnlyCachedReads scope(optional > 0);
      (*read)[0] = database_->multi_get(Family::kChunk, keys);
    }
    const bool waits = std::ranges::any_of(std::views::iota(std::size_t{0}, required),
                                           [&](auto i) { return (*read)[0].cold(i); });
    if (waits) {
      (*read)[1] = database_->multi_get(Family::kChunk, std::span(keys).first(required));
    }
    ChunkRead chunks;
    chunks.chunks.reserve(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const MultiRead& from = (*read)[waits && i < required ? 1 : 0];
      if (!from.found(i)) {
        if (i >= required) break;
        return from.failure(i, fmt::format("chunk {:#x}", ids[i].value).c_str());
      }
      chunks.chunks.push_back(from.value(i));
    }
    chunks.pin = std::move(read);
    return chunks;
  }

  Result<Bytes> manifest(NamespaceId in, const std::string& name) override {
    const auto snapshot = TRY(find_snapshot(in, name));
    if (!snapshot) return fail(ErrorCode::kNotFound, "there is no snapshot \"{}\"", name);
    return manifest(in, *snapshot);
  }

  Result<Bytes> manifest(NamespaceId in, SnapshotId snapshot) override {
    return database_->get(Family::kSnapshot, manifest_key(in, snapshot), "reading a manifest");
  }

  Result<std::vector<Bytes>> manifests(NamespaceId in, const std::string& after,
                                       std::size_t most) override {
    std::vector<Bytes> found;
    const auto visit = [&](std::string_view name, ByteSpan value) -> Result<bool> {
      if (!after.empty() && name == after) return true;
      const SnapshotId snapshot{TRY(parse_number(value))};
      auto sealed = TRY(if_found(manifest(in, snapshot)));
      // Deleted since the scan began.
      if (!sealed) return true;
      found.push_back(*std::move(sealed));
      return found.size() < most;
    };
    if (most > 0) TRY(database_->scan(Family::kSnapshot, prefixed('n', in), after, visit));
    return found;
  }

  Result<Bytes> page_map_segment(NamespaceId in, SnapshotId snapshot,
                                 std::uint32_t segment) override {
    return database_->get(Family::kSnapshot, segment_key(in, snapshot, segment),
                          "page map segment");
  }

  Result<NamespaceId> open_namespace(const std::string& name) override {
    if (const auto found = TRY(find_namespace(name))) return *found;
    const std::uint64_t next =
        TRY(database_->get_number(Family::kMeta, "namespaces")).value_or(0) + 1;
    if (next > 0xffff) return fail(ErrorCode::kLimitExceeded, "65,535 namespaces");
    Batch batch(*database_);
    batch.put_number(Family::kMeta, "namespaces", next);
    batch.put_number(Family::kMeta, namespace_key(name), next);
    TRY(database_->write(batch, Durability::kSynced));
    return NamespaceId{static_cast<std::uint16_t>(next)};
  }

  Result<std::vector<StoredChunk>> put_chunks(NamespaceId in, std::span<NewChunk> chunks) override {
    std::vector<Sha256> hashes;
    for (const NewChunk& chunk : chunks) hashes.push_back(chunk.hash);
    const std::vector<ChunkId> known = TRY(find_chunks(in, hashes));
    NamespaceTotals after = TRY(totals(in));
    std::vector<StoredChunk> stored;
    Batch batch(*database_);
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (known[i].valid()) {
        stored.push_back({known[i], false});
        continue;
      }
      const ChunkId id = TRY(next_id(in));
      reseal_chunk(chunks[i].chunk, chunks[i].plain, id);
      batch.put(Family::kChunk, number_key(id.value), as_text(chunks[i].chunk));
      batch.put_number(Family::kHash, hash_key(in, chunks[i].hash), id.value);
      ++after.chunks;
      after.chunk_bytes += chunks[i].chunk.size();
      stored.push_back({id, true});
    }
    batch.put_number(Family::kMeta, prefixed('c', in), after.chunks);
    batch.put_number(Family::kMeta, prefixed('b', in), after.chunk_bytes);
    TRY(database_->check_space(batch));
    TRY(database_->write(batch, Durability::kLogged));
    return stored;
  }

  Result<Manifest> publish(NamespaceId in, Manifest manifest, const PageMap& map) override {
    const std::string& name = manifest.spec.name;
    if (TRY(find_snapshot(in, name))) {
      return fail(ErrorCode::kAlreadyExists, "there is a snapshot \"{}\" already", name);
    }
    const std::string counter = prefixed('s', in);
    manifest.snapshot = {TRY(database_->get_number(Family::kMeta, counter)).value_or(0) + 1};
    Batch batch(*database_);
    batch.put_number(Family::kMeta, counter, manifest.snapshot.value);
    for (std::uint32_t i = 0; i < map.segment_count(); ++i) {
      batch.put(Family::kSnapshot, segment_key(in, manifest.snapshot, i),
                as_text(map.encode_segment(i)));
    }
    batch.put(Family::kSnapshot, manifest_key(in, manifest.snapshot),
              as_text(encode_manifest(manifest)));
    batch.put_number(Family::kSnapshot, name_key(in, name), manifest.snapshot.value);
    TRY(database_->check_space(batch));
    TRY(database_->write(batch, Durability::kSynced));
    return manifest;
  }

  Result<void> remove(NamespaceId in, const std::string& name) override {
    const auto snapshot = TRY(find_snapshot(in, name));
    if (!snapshot) return fail(ErrorCode::kNotFound, "there is no snapshot \"{}\"", name);
    Batch batch(*database_);
    batch.remove(Family::kSnapshot, name_key(in, name));
    batch.remove(Family::kSnapshot, manifest_key(in, *snapshot));
    batch.remove_prefix(Family::kSnapshot, snapshot_key('p', in, *snapshot));
    TRY(working_sets_.remove(batch, in, *snapshot));
    return database_->write(batch, Durability::kSynced);
  }

  WorkingSetStore& working_sets() override { return working_sets_; }

 private:
  Result<std::optional<SnapshotId>> find_snapshot(NamespaceId in, const std::string& name) {
    const auto found = TRY(database_->get_number(Family::kSnapshot, name_key(in, name)));
    if (!found) return std::optional<SnapshotId>();
    return std::optional(SnapshotId{*found});
  }

  /// Ids set aside for a namespace: [next, end).
  struct Reserved {
    std::uint64_t next = 0;
    std::uint64_t end = 0;
  };

  /// The watermark goes into the log before any chunk that lies below it, and the log is recovered
  /// as a prefix: an id that a recovered chunk has is never given out again.
  Result<ChunkId> next_id(NamespaceId in) {
    Reserved& reserved = reserved_[in];
    if (reserved.next == reserved.end) {
      const std::string key = prefixed('w', in);
      const std::uint64_t start = TRY(database_->get_number(Family::kMeta, key)).value_or(1);
      if (start > ChunkId::kMaxSequence - kReservedIds) {
        return fail(ErrorCode::kLimitExceeded, "the namespace has used up its chunk ids");
      }
      Batch batch(*database_);
      batch.put_number(Family::kMeta, key, start + kReservedIds);
      TRY(database_->write(batch, Durability::kLogged));
      reserved = {start, start + kReservedIds};
    }
    return ChunkId::of(in.value, kWriter, reserved.next++);
  }

  const std::unique_ptr<RocksDatabase> database_;
  RocksWorkingSets working_sets_;
  std::map<NamespaceId, Reserved> reserved_;  // of the writing thread
};

}  // namespace

Result<std::unique_ptr<Store>> open_rocks_store(const std::string& directory, ByteCount min_free) {
  return std::make_unique<RocksStore>(TRY(RocksDatabase::open(directory, min_free)));
}

}  // namespace thaw
