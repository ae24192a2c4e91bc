#include "pageserver/sys/rocks_store.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <numeric>
#include <ranges>

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "format/limits.h"
#include "pageserver/sys/cached_reads.h"

namespace thaw {

namespace {

using rocksdb::ColumnFamilyHandle;
using rocksdb::PinnableSlice;
using rocksdb::Slice;
using rocksdb::Status;
using rocksdb::WriteBatch;

constexpr std::uint64_t kStoreVersion = 1;
constexpr std::uint8_t kWriter = 0;
/// Chunk ids are set aside in blocks: the durable watermark stands beyond every id in use.
constexpr std::uint64_t kReservedIds = 1u << 16;
constexpr std::size_t kBlockCacheBytes = 64u << 20;

enum Family : std::size_t { kDefault, kChunk, kHash, kSnapshot, kMeta, kFamilies };

Slice slice(const std::string& text) { return {text}; }
ByteSpan span_of(const Slice& value) { return as_bytes({value.data(), value.size()}); }
Bytes bytes_of_value(const Slice& value) {
  const ByteSpan span = span_of(value);
  return {span.begin(), span.end()};
}

void append_big_endian(std::string& key, std::uint64_t value, unsigned bytes) {
  for (unsigned i = bytes; i-- > 0;) key.push_back(static_cast<char>(value >> (8 * i)));
}
std::string number(std::uint64_t value) {
  std::string text;
  append_big_endian(text, value, 8);
  return text;
}
Result<std::uint64_t> parse_number(const Slice& value) {
  if (value.size() != 8) return fail(ErrorCode::kCorrupt, "a number of {} bytes", value.size());
  std::uint64_t result = 0;
  for (std::size_t i = 0; i < 8; ++i) result = result << 8 | static_cast<std::uint8_t>(value[i]);
  return result;
}

// Keys. FORMAT.md lists them.
std::string prefixed(char kind, NamespaceId in) {
  std::string key(1, kind);
  append_big_endian(key, in.value, 2);
  return key;
}
std::string hash_key(NamespaceId in, const Sha256& hash) {
  std::string key;
  append_big_endian(key, in.value, 2);
  return key.append(as_text(hash));
}
std::string name_key(NamespaceId in, const std::string& name) { return prefixed('n', in) + name; }
std::string manifest_key(NamespaceId in, SnapshotId snapshot) {
  return prefixed('m', in) + number(snapshot.value);
}
std::string segment_key(NamespaceId in, SnapshotId snapshot, std::uint32_t segment) {
  std::string key = prefixed('p', in) + number(snapshot.value);
  append_big_endian(key, segment, 4);
  return key;
}
std::string namespace_key(const std::string& name) { return "namespace/" + name; }

std::unexpected<Error> store_failure(const Status& status, const char* what) {
  ErrorCode code = ErrorCode::kIo;
  if (status.IsNotFound()) code = ErrorCode::kNotFound;
  if (status.IsCorruption()) code = ErrorCode::kCorrupt;
  if (status.IsNoSpace() || status.ToString().find("No space left") != std::string::npos) {
    code = ErrorCode::kNoSpace;
  }
  return fail(code, "{}: {}", what, status.ToString());
}

rocksdb::ColumnFamilyOptions family_options(Family family,
                                            const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.block_size = 4096;
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  if (family == kHash) table.filter_policy.reset(rocksdb::NewRibbonFilterPolicy(10));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;
  options.level_compaction_dynamic_level_bytes = true;
  options.optimize_filters_for_hits = family == kChunk;
  return options;
}

/// RocksDB's own messages, into our log. Its default, a file beside the data, aborts the process
/// (an assertion of Debian's build) when the disk is full.
class StoreLog final : public rocksdb::Logger {
 public:
  StoreLog() : Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}
  using Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    std::array<char, 512> line{};
    std::vsnprintf(line.data(), line.size(), format, arguments);
    log_warning("rocksdb: {}", line.data());
  }
};

rocksdb::DBOptions database_options(rocksdb::Env& env) {
  rocksdb::DBOptions options;
  options.env = &env;
  options.info_log = std::make_shared<StoreLog>();
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_open_files = -1;
  // A torn tail of the log is the normal end after a crash; anything else refuses to open.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  return options;
}

class RocksStore final : public Store {
 public:
  RocksStore(std::unique_ptr<rocksdb::Env> env, std::unique_ptr<rocksdb::DB> db,
             const std::vector<ColumnFamilyHandle*>& handles, std::string directory,
             ByteCount min_free)
      : directory_(std::move(directory)),
        min_free_(min_free),
        env_(std::move(env)),
        db_(std::move(db)) {
    for (ColumnFamilyHandle* handle : handles) {
      families_.push_back(Handle(handle, HandleDeleter{db_.get()}));
    }
  }
  ~RocksStore() override {
    families_.clear();
    if (const Status status = db_->Close(); !status.ok()) {
      log_error("closing the store: {}", status.ToString());
    }
  }

  Result<void> start() {
    const auto version = TRY(get_number("version"));
    if (version && *version > kStoreVersion) {
      return fail(ErrorCode::kBadVersion, "the store has version {}, this build knows up to {}",
                  *version, kStoreVersion);
    }
    WriteBatch batch;
    put(batch, kMeta, "version", number(kStoreVersion));
    return write(batch, /*sync=*/true);
  }

  Result<std::optional<NamespaceId>> find_namespace(const std::string& name) override {
    const auto found = TRY(get_number(namespace_key(name)));
    if (!found) return std::optional<NamespaceId>();
    return std::optional(NamespaceId{static_cast<std::uint16_t>(*found)});
  }

  Result<NamespaceTotals> totals(NamespaceId in) override {
    return NamespaceTotals{TRY(get_number(prefixed('c', in))).value_or(0),
                           TRY(get_number(prefixed('b', in))).value_or(0)};
  }

  Result<std::vector<ChunkId>> find_chunks(NamespaceId in,
                                           std::span<const Sha256> hashes) override {
    std::vector<std::string> keys;
    keys.reserve(hashes.size());
    for (const Sha256& hash : hashes) keys.push_back(hash_key(in, hash));
    const MultiRead read = multi_get(kHash, keys);
    std::vector<ChunkId> chunks;
    chunks.reserve(hashes.size());
    for (std::size_t i = 0; i < hashes.size(); ++i) {
      const Status& status = read.status(i);
      if (status.IsNotFound()) {
        chunks.push_back(kNoChunk);
        continue;
      }
      if (!status.ok()) return store_failure(status, "looking up a page");
      chunks.push_back({TRY(parse_number(read.value(i)))});
    }
    return chunks;
  }

  Result<ChunkRead> read_chunks(std::span<const ChunkId> ids, std::size_t optional) override {
    const std::size_t required = ids.size() - optional;
    std::vector<std::string> keys;
    keys.reserve(ids.size());
    for (const ChunkId id : ids) keys.push_back(number(id.value));
    // The first read is of everything, so that neighbours cost one look-up. What it says is not at
    // hand is read again if it is required.
    auto read = std::make_shared<std::array<MultiRead, 2>>();
    {
      const OnlyCachedReads scope(optional > 0);
      (*read)[0] = multi_get(kChunk, keys);
    }
    const bool waits = std::ranges::any_of(std::views::iota(std::size_t{0}, required),
                                           [&](auto i) { return is_cold((*read)[0].status(i)); });
    if (waits) (*read)[1] = multi_get(kChunk, std::span(keys).first(required));
    ChunkRead chunks;
    chunks.chunks.reserve(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const MultiRead& from = (*read)[waits && i < required ? 1 : 0];
      if (!from.status(i).ok()) {
        if (i >= required) break;
        return store_failure(from.status(i), fmt::format("chunk {:#x}", ids[i].value).c_str());
      }
      chunks.chunks.push_back(span_of(from.value(i)));
    }
    chunks.pin = std::move(read);
    return chunks;
  }

  Result<Bytes> manifest(NamespaceId in, const std::string& name) override {
    const auto snapshot = TRY(find_snapshot(in, name));
    if (!snapshot) return fail(ErrorCode::kNotFound, "there is no snapshot \"{}\"", name);
    return get_value(kSnapshot, manifest_key(in, *snapshot), "reading a manifest");
  }

  Result<std::vector<Bytes>> manifests(NamespaceId in, const std::string& after,
                                       std::size_t most) override {
    const std::string prefix = prefixed('n', in);
    const std::unique_ptr<rocksdb::Iterator> names(
        db_->NewIterator(rocksdb::ReadOptions(), family(kSnapshot)));
    std::vector<Bytes> found;
    names->Seek(prefix + after);
    if (!after.empty() && names->Valid() && names->key() == prefix + after) names->Next();
    for (; names->Valid() && names->key().starts_with(prefix) && found.size() < most;
         names->Next()) {
      const SnapshotId snapshot{TRY(parse_number(names->value()))};
      auto value = get_value(kSnapshot, manifest_key(in, snapshot), "reading a manifest");
      // Deleted since the iterator was made.
      if (!value && value.error().code() == ErrorCode::kNotFound) continue;
      if (!value) return std::unexpected(value.error());
      found.push_back(*std::move(value));
    }
    if (!names->status().ok()) return store_failure(names->status(), "listing snapshots");
    return found;
  }

  Result<Bytes> page_map_segment(NamespaceId in, SnapshotId snapshot,
                                 std::uint32_t segment) override {
    return get_value(kSnapshot, segment_key(in, snapshot, segment), "page map segment");
  }

  Result<NamespaceId> open_namespace(const std::string& name) override {
    if (const auto found = TRY(find_namespace(name))) return *found;
    const std::uint64_t next = TRY(get_number("namespaces")).value_or(0) + 1;
    if (next > 0xffff) return fail(ErrorCode::kLimitExceeded, "65,535 namespaces");
    WriteBatch batch;
    put(batch, kMeta, "namespaces", number(next));
    put(batch, kMeta, namespace_key(name), number(next));
    TRY(write(batch, /*sync=*/true));
    return NamespaceId{static_cast<std::uint16_t>(next)};
  }

  Result<std::vector<StoredChunk>> put_chunks(NamespaceId in, std::span<NewChunk> chunks) override {
    std::vector<Sha256> hashes;
    for (const NewChunk& chunk : chunks) hashes.push_back(chunk.hash);
    const std::vector<ChunkId> known = TRY(find_chunks(in, hashes));
    NamespaceTotals after = TRY(totals(in));
    std::vector<StoredChunk> stored;
    WriteBatch batch;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (known[i].valid()) {
        stored.push_back({known[i], false});
        continue;
      }
      const ChunkId id = TRY(next_id(in));
      reseal_chunk(chunks[i].chunk, chunks[i].plain, id);
      put(batch, kChunk, number(id.value), as_text(chunks[i].chunk));
      put(batch, kHash, hash_key(in, chunks[i].hash), number(id.value));
      ++after.chunks;
      after.chunk_bytes += chunks[i].chunk.size();
      stored.push_back({id, true});
    }
    put(batch, kMeta, prefixed('c', in), number(after.chunks));
    put(batch, kMeta, prefixed('b', in), number(after.chunk_bytes));
    TRY(check_space(batch));
    TRY(write(batch, /*sync=*/false));
    return stored;
  }

  Result<Manifest> publish(NamespaceId in, Manifest manifest, const PageMap& map) override {
    const std::string& name = manifest.spec.name;
    if (TRY(find_snapshot(in, name))) {
      return fail(ErrorCode::kAlreadyExists, "there is a snapshot \"{}\" already", name);
    }
    const std::string counter = prefixed('s', in);
    manifest.snapshot = {TRY(get_number(counter)).value_or(0) + 1};
    WriteBatch batch;
    put(batch, kMeta, counter, number(manifest.snapshot.value));
    for (std::uint32_t i = 0; i < map.segment_count(); ++i) {
      put(batch, kSnapshot, segment_key(in, manifest.snapshot, i), as_text(map.encode_segment(i)));
    }
    put(batch, kSnapshot, manifest_key(in, manifest.snapshot), as_text(encode_manifest(manifest)));
    put(batch, kSnapshot, name_key(in, name), number(manifest.snapshot.value));
    TRY(check_space(batch));
    // RocksDB syncs every log that is not synced yet, so all chunks put before are durable too.
    TRY(write(batch, /*sync=*/true));
    return manifest;
  }

  Result<void> remove(NamespaceId in, const std::string& name) override {
    const auto snapshot = TRY(find_snapshot(in, name));
    if (!snapshot) return fail(ErrorCode::kNotFound, "there is no snapshot \"{}\"", name);
    WriteBatch batch;
    batch.Delete(family(kSnapshot), name_key(in, name));
    batch.Delete(family(kSnapshot), manifest_key(in, *snapshot));
    const std::string prefix = prefixed('p', in) + number(snapshot->value);
    const std::unique_ptr<rocksdb::Iterator> segments(
        db_->NewIterator(rocksdb::ReadOptions(), family(kSnapshot)));
    for (segments->Seek(prefix); segments->Valid() && segments->key().starts_with(prefix);
         segments->Next()) {
      batch.Delete(family(kSnapshot), segments->key());
    }
    if (!segments->status().ok()) return store_failure(segments->status(), "deleting");
    return write(batch, /*sync=*/true);
  }

 private:
  struct HandleDeleter {
    rocksdb::DB* db;
    void operator()(ColumnFamilyHandle* handle) const { db->DestroyColumnFamilyHandle(handle); }
  };
  using Handle = std::unique_ptr<ColumnFamilyHandle, HandleDeleter>;

  /// Results of one MultiGet, addressed by the caller's order. RocksDB 7.8 mishandles duplicate
  /// keys in one call, and sorted keys are read fastest, so each key is asked for once, in order.
  class MultiRead {
   public:
    MultiRead() = default;
    explicit MultiRead(std::size_t distinct) : values_(distinct), statuses_(distinct) {}
    const Status& status(std::size_t i) const { return statuses_[place_[i]]; }
    Slice value(std::size_t i) const { return values_[place_[i]]; }

    std::vector<std::size_t> place_;  // by the caller's index
    std::vector<PinnableSlice> values_;
    std::vector<Status> statuses_;
  };

  MultiRead multi_get(Family from, std::span<const std::string> keys) {
    std::vector<std::size_t> order(keys.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::sort(order, {}, [&](std::size_t i) { return std::string_view(keys[i]); });
    std::vector<Slice> distinct;
    std::vector<std::size_t> place(keys.size());
    for (const std::size_t i : order) {
      if (distinct.empty() || distinct.back() != Slice(keys[i])) distinct.emplace_back(keys[i]);
      place[i] = distinct.size() - 1;
    }
    MultiRead read(distinct.size());
    read.place_ = std::move(place);
    if (distinct.size() == 1) {
      // Most demand requests; MultiGet has more to set up.
      read.statuses_[0] =
          db_->Get(rocksdb::ReadOptions(), family(from), distinct[0], &read.values_[0]);
      return read;
    }
    db_->MultiGet(rocksdb::ReadOptions(), family(from), distinct.size(), distinct.data(),
                  read.values_.data(), read.statuses_.data(), /*sorted_input=*/true);
    return read;
  }

  ColumnFamilyHandle* family(Family which) const { return families_[which].get(); }

  void put(WriteBatch& batch, Family to, const std::string& key, std::string_view value) {
    CHECK(batch.Put(family(to), slice(key), Slice(value.data(), value.size())).ok());
  }

  Result<void> check_space(const WriteBatch& batch) {
    const ByteCount free = TRY(free_space(directory_));
    if (within(batch.GetDataSize(), min_free_.value, free.value)) return {};
    return fail(ErrorCode::kNoSpace, "{} MiB are left in {}, of which {} MiB stay free",
                free.value >> 20, directory_, min_free_.value >> 20);
  }

  /// After a failed write, such as on a full disk, RocksDB refuses all others until it is told to
  /// go on; the next write does that.
  Result<void> write(WriteBatch& batch, bool sync) {
    if (must_resume_) {
      if (const Status status = db_->Resume(); !status.ok()) {
        return store_failure(status, "the store cannot be written");
      }
      must_resume_ = false;
    }
    rocksdb::WriteOptions options;
    options.sync = sync;
    if (const Status status = db_->Write(options, &batch); !status.ok()) {
      must_resume_ = true;
      return store_failure(status, "writing to the store");
    }
    return {};
  }

  Result<Bytes> get_value(Family from, const std::string& key, const char* what) {
    PinnableSlice value;
    const Status status = db_->Get(rocksdb::ReadOptions(), family(from), slice(key), &value);
    if (!status.ok()) return store_failure(status, what);
    return bytes_of_value(value);
  }

  Result<std::optional<std::uint64_t>> get_number(const std::string& key, Family from = kMeta) {
    PinnableSlice value;
    const Status status = db_->Get(rocksdb::ReadOptions(), family(from), slice(key), &value);
    if (status.IsNotFound()) return std::optional<std::uint64_t>();
    if (!status.ok()) return store_failure(status, "reading the store");
    return std::optional(TRY(parse_number(value)));
  }

  Result<std::optional<SnapshotId>> find_snapshot(NamespaceId in, const std::string& name) {
    const auto found = TRY(get_number(name_key(in, name), kSnapshot));
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
      const std::uint64_t start = TRY(get_number(key)).value_or(1);
      if (start > ChunkId::kMaxSequence - kReservedIds) {
        return fail(ErrorCode::kLimitExceeded, "the namespace has used up its chunk ids");
      }
      WriteBatch batch;
      put(batch, kMeta, key, number(start + kReservedIds));
      TRY(write(batch, /*sync=*/false));
      reserved = {start, start + kReservedIds};
    }
    return ChunkId::of(in.value, kWriter, reserved.next++);
  }

  const std::string directory_;
  const ByteCount min_free_;
  const std::unique_ptr<rocksdb::Env> env_;  // outlives the database
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<Handle> families_;

  // Of the writing thread.
  std::map<NamespaceId, Reserved> reserved_;
  bool must_resume_ = false;
};

}  // namespace

Result<std::unique_ptr<Store>> open_rocks_store(const std::string& directory, ByteCount min_free) {
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  const std::array<std::pair<const char*, Family>, kFamilies> names{{{"default", kDefault},
                                                                     {"chunk", kChunk},
                                                                     {"hash", kHash},
                                                                     {"snapshot", kSnapshot},
                                                                     {"meta", kMeta}}};
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(names.size());
  for (const auto& [name, family] : names) {
    descriptors.emplace_back(name, family_options(family, cache));
  }
  auto env = create_caching_env();
  rocksdb::DB* db = nullptr;
  std::vector<ColumnFamilyHandle*> handles;
  const Status status =
      rocksdb::DB::Open(database_options(*env), directory, descriptors, &handles, &db);
  if (!status.ok()) {
    if (status.ToString().find("lock") != std::string::npos) {
      return fail(ErrorCode::kBusy, "{} is in use by another process", directory);
    }
    return store_failure(status, fmt::format("opening the store in {}", directory).c_str());
  }
  auto store = std::make_unique<RocksStore>(std::move(env), std::unique_ptr<rocksdb::DB>(db),
                                            handles, directory, min_free);
  TRY(store->start());
  return store;
}

}  // namespace thaw
