#include "pageserver/sys/rocks_chunks.h"

#include <algorithm>
#include <array>
#include <ranges>

#include "pageserver/sys/rocks_account.h"
#include "pageserver/sys/rocks_keys.h"
#include "pageserver/sys/store_files.h"

namespace thaw {

namespace {

using Batch = RocksDatabase::Batch;
using Durability = RocksDatabase::Durability;

constexpr std::uint8_t kWriter = 0;
/// Chunk ids are set aside in blocks: the durable watermark stands beyond every id in use.
constexpr std::uint64_t kReservedIds = 1u << 16;

// Of a namespace, in the family of totals.
constexpr char kCondemned = 'x';
constexpr char kQuarantined = 'q';
constexpr char kCheckedUpTo = 'u';

std::string namespace_prefix(NamespaceId in) {
  std::string key;
  append_big_endian(key, in.value, 2);
  return key;
}
std::string hash_key(NamespaceId in, const Sha256& hash) {
  return namespace_prefix(in).append(as_text(hash));
}
std::string quarantine_key(NamespaceId in, const Sha256& hash) {
  return prefixed(kQuarantined, in).append(as_text(hash));
}
std::string condemned_key(NamespaceId in, std::uint64_t block) {
  return prefixed(kCondemned, in) + number_key(block);
}

Result<KnownPage> parse_page(std::string_view hash, ByteSpan id) {
  KnownPage page;
  if (hash.size() != page.hash.size()) {
    return fail(ErrorCode::kCorrupt, "a page's hash of {} bytes", hash.size());
  }
  std::ranges::copy(as_bytes(hash), page.hash.begin());
  page.chunk = {TRY(parse_number(id))};
  return page;
}

/// The ids that were found, kNoChunk where there was none.
Result<std::vector<ChunkId>> ids_of(const MultiRead& read, std::size_t count) {
  std::vector<ChunkId> ids(count, kNoChunk);
  for (std::size_t i = 0; i < count; ++i) {
    if (read.missing(i)) continue;
    if (!read.found(i)) return read.failure(i, "looking up a page");
    ids[i] = {TRY(parse_number(read.value(i)))};
  }
  return ids;
}

std::vector<std::string> chunk_keys(std::span<const ChunkId> ids) {
  std::vector<std::string> keys;
  keys.reserve(ids.size());
  for (const ChunkId id : ids) keys.push_back(number_key(id.value));
  return keys;
}

}  // namespace

Result<std::vector<ChunkId>> RocksChunks::find(NamespaceId in, std::span<const Sha256> hashes) {
  std::vector<std::string> keys;
  keys.reserve(hashes.size());
  for (const Sha256& hash : hashes) keys.push_back(hash_key(in, hash));
  return ids_of(database_.multi_get(Family::kHash, keys), hashes.size());
}

Result<std::vector<ChunkId>> RocksChunks::find_quarantined(NamespaceId in,
                                                           std::span<const NewChunk> chunks) {
  std::vector<std::string> keys;
  keys.reserve(chunks.size());
  for (const NewChunk& chunk : chunks) keys.push_back(quarantine_key(in, chunk.hash));
  return ids_of(database_.multi_get(Family::kMeta, keys), chunks.size());
}

Result<ChunkRead> RocksChunks::read(std::span<const ChunkId> ids, std::size_t optional) {
  const std::size_t required = ids.size() - optional;
  const std::vector<std::string> keys = chunk_keys(ids);
  // The first read is of everything, so that neighbours cost one look-up. What it says is not at
  // hand is read again if it is required.
  auto read = std::make_shared<std::array<MultiRead, 2>>();
  {
    const OnlyCachedReads scope(optional > 0);
    (*read)[0] = database_.multi_get(Family::kChunk, keys);
  }
  const bool waits = std::ranges::any_of(std::views::iota(std::size_t{0}, required),
                                         [&](auto i) { return (*read)[0].cold(i); });
  if (waits) {
    (*read)[1] = database_.multi_get(Family::kChunk, std::span(keys).first(required));
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

Result<std::vector<StoredChunk>> RocksChunks::put(NamespaceId in, std::span<const NewChunk> chunks,
                                                  const Admit& admit) {
  std::vector<Sha256> hashes;
  hashes.reserve(chunks.size());
  for (const NewChunk& chunk : chunks) hashes.push_back(chunk.hash);
  const std::vector<ChunkId> known = TRY(find(in, hashes));
  const std::vector<ChunkId> quarantined = TRY(find_quarantined(in, chunks));
  const NamespaceTotals before = TRY(read_totals(database_, in));
  NamespaceTotals after = before;
  std::vector<StoredChunk> stored;
  stored.reserve(chunks.size());
  bool grows = false;  // by more than what comes back after damage
  Bytes sealed;
  Batch batch(database_);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (known[i].valid()) {
      stored.push_back({known[i], false});
      continue;
    }
    ChunkId id = quarantined[i];
    std::optional<std::uint64_t> replaced;
    if (id.valid()) {
      batch.remove(Family::kMeta, quarantine_key(in, chunks[i].hash));
      replaced = size_of(id);
    } else {
      id = TRY(next_id(in));
      grows = true;
    }
    if (!replaced) ++after.chunks;
    after.chunk_bytes += chunks[i].chunk.size();
    after.chunk_bytes -= std::min(after.chunk_bytes, replaced.value_or(0));
    sealed.assign(chunks[i].chunk.begin(), chunks[i].chunk.end());
    reseal_chunk(sealed, chunks[i].plain, id);
    batch.put(Family::kChunk, number_key(id.value), as_text(sealed));
    batch.put_number(Family::kHash, hash_key(in, chunks[i].hash), id.value);
    stored.push_back({id, true});
  }
  if (grows) TRY(admit(before, after));
  put_chunk_totals(batch, in, after);
  TRY(database_.check_space(batch));
  TRY(database_.write(batch, Durability::kLogged));
  return stored;
}

/// 0 when it cannot be read; nothing when it is not there.
std::optional<std::uint64_t> RocksChunks::size_of(ChunkId id) {
  const EachChunkRead read = read_each(std::span(&id, 1));
  if (read.chunks[0]) return read.chunks[0]->size();
  if (read.chunks[0].error().code() == ErrorCode::kNotFound) return std::nullopt;
  return 0;
}

Result<void> RocksChunks::check_empty(NamespaceId in) {
  const auto check = [&](Family family, std::string_view what) -> Result<void> {
    return database_.scan(family, namespace_prefix(in), {},
                          [&](std::string_view, ByteSpan) -> Result<bool> {
                            return fail(ErrorCode::kBusy, "{}", what);
                          });
  };
  TRY(check(Family::kChunk, "it has chunks, which `thaw gc` deletes when no snapshot has them"));
  TRY(check(Family::kHash, "it has pages in its index, which `thaw gc` or `thaw fsck` removes"));
  return check(Family::kPack, "it has packs of a working set");
}

void RocksChunks::remove(Batch& batch, NamespaceId in) {
  for (const char kind : {kCondemned, kQuarantined}) {
    batch.remove_prefix(Family::kMeta, prefixed(kind, in));
  }
  batch.remove(Family::kMeta, prefixed(kCheckedUpTo, in));
}

Result<void> RocksChunks::compact_hashes(NamespaceId in) {
  Sha256 last;
  last.fill(std::byte{0xff});
  return database_.compact(Family::kHash, namespace_prefix(in), hash_key(in, last));
}

Result<void> RocksChunks::for_each_page(NamespaceId in, const VisitPage& visit) {
  const auto visit_entry = [&](std::string_view hash, ByteSpan id) -> Result<bool> {
    return visit(TRY(parse_page(hash, id)));
  };
  // A push may heal a page meanwhile, which moves it from the one to the other: in this order it is
  // met at least once.
  TRY(database_.scan(Family::kMeta, prefixed(kQuarantined, in), {}, visit_entry));
  return database_.scan(Family::kHash, namespace_prefix(in), {}, visit_entry);
}

EachChunkRead RocksChunks::read_each(std::span<const ChunkId> ids) {
  const std::vector<std::string> keys = chunk_keys(ids);
  auto read = std::make_shared<MultiRead>(
      database_.multi_get(Family::kChunk, keys, RocksDatabase::Caching::kPastTheCache));
  EachChunkRead each;
  each.chunks.reserve(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    each.chunks.push_back(read->found(i) ? Result<ByteSpan>(read->value(i))
                                         : read->failure(i, "reading a chunk"));
  }
  each.pin = std::move(read);
  return each;
}

Result<NamespaceTotals> RocksChunks::count(NamespaceId in) {
  NamespaceTotals counted = TRY(count_entries(database_, in));
  TRY(database_.scan(Family::kChunk, namespace_prefix(in), {},
                     [&](std::string_view, ByteSpan chunk) -> Result<bool> {
                       ++counted.chunks;
                       counted.chunk_bytes += chunk.size();
                       return true;
                     }));
  return counted;
}

Result<void> RocksChunks::set_totals(NamespaceId in, const NamespaceTotals& totals) {
  Batch batch(database_);
  put_chunk_totals(batch, in, totals);
  put_entry_totals(batch, in, totals);
  return database_.write(batch, Durability::kSynced);
}

Result<ChunkSet> RocksChunks::condemned(NamespaceId in) {
  ChunkSet set;
  TRY(database_.scan(Family::kMeta, prefixed(kCondemned, in), {},
                     [&](std::string_view block, ByteSpan bitmap) -> Result<bool> {
                       TRY(set.insert_block(TRY(parse_number(as_bytes(block))), bitmap));
                       return true;
                     }));
  return set;
}

Result<std::vector<KnownPage>> RocksChunks::quarantined(NamespaceId in) {
  std::vector<KnownPage> pages;
  TRY(database_.scan(Family::kMeta, prefixed(kQuarantined, in), {},
                     [&](std::string_view hash, ByteSpan id) -> Result<bool> {
                       pages.push_back(TRY(parse_page(hash, id)));
                       return true;
                     }));
  return pages;
}

Result<ChunkId> RocksChunks::checked_up_to(NamespaceId in) {
  return ChunkId{TRY(database_.get_number(Family::kMeta, prefixed(kCheckedUpTo, in))).value_or(0)};
}

Result<void> RocksChunks::set_checked_up_to(NamespaceId in, ChunkId id) {
  Batch batch(database_);
  batch.put_number(Family::kMeta, prefixed(kCheckedUpTo, in), id.value);
  return database_.write(batch, Durability::kLogged);
}

Result<void> RocksChunks::condemn(NamespaceId in, const ChunkSet& chunks) {
  Batch batch(database_);
  batch.remove_prefix(Family::kMeta, prefixed(kCondemned, in));
  for (const std::uint64_t block : chunks.blocks()) {
    batch.put(Family::kMeta, condemned_key(in, block), as_text(chunks.block(block)));
  }
  return database_.write(batch, Durability::kSynced);
}

Result<void> RocksChunks::forget(NamespaceId in, std::span<const KnownPage> pages) {
  Batch batch(database_);
  const auto remove = [&](Family family, const std::string& key, ChunkId chunk) -> Result<void> {
    if (TRY(database_.get_number(family, key)) == chunk.value) batch.remove(family, key);
    return {};
  };
  for (const KnownPage& page : pages) {
    TRY(remove(Family::kHash, hash_key(in, page.hash), page.chunk));
    TRY(remove(Family::kMeta, quarantine_key(in, page.hash), page.chunk));
  }
  return database_.write(batch, Durability::kLogged);
}

Result<ByteCount> RocksChunks::sweep(NamespaceId in, std::span<const ChunkId> ids) {
  ChunkSet chunks;
  for (const ChunkId id : ids) chunks.insert(id);
  const std::vector<std::string> keys = chunk_keys(ids);
  const MultiRead read =
      database_.multi_get(Family::kChunk, keys, RocksDatabase::Caching::kPastTheCache);
  Batch batch(database_);
  NamespaceTotals after = TRY(read_totals(database_, in));
  ByteCount freed{0};
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (read.missing(i)) continue;
    if (read.found(i)) {
      freed += ByteCount{read.value(i).size()};
    } else {
      // One that is damaged goes too; of one that cannot be read now it is not known.
      const auto unread = read.failure(i, "reading a chunk that is to go");
      if (unread.error().code() != ErrorCode::kCorrupt) return unread;
    }
    after.chunks -= std::min<std::uint64_t>(after.chunks, 1);
    batch.remove(Family::kChunk, keys[i]);
  }
  after.chunk_bytes -= std::min(after.chunk_bytes, freed.value);
  put_chunk_totals(batch, in, after);
  for (const std::uint64_t block : chunks.blocks()) {
    const std::string key = condemned_key(in, block);
    ChunkSet rest;
    TRY(rest.insert_block(block, TRY(database_.get(Family::kMeta, key, "condemned chunks"))));
    rest.erase(chunks);
    if (rest.empty()) {
      batch.remove(Family::kMeta, key);
    } else {
      batch.put(Family::kMeta, key, as_text(rest.block(block)));
    }
  }
  TRY(database_.write(batch, Durability::kLogged));
  return freed;
}

Result<void> RocksChunks::quarantine(NamespaceId in, std::span<const KnownPage> pages) {
  Batch batch(database_);
  for (const KnownPage& page : pages) {
    batch.remove(Family::kHash, hash_key(in, page.hash));
    batch.put_number(Family::kMeta, quarantine_key(in, page.hash), page.chunk.value);
  }
  return database_.write(batch, Durability::kSynced);
}

Result<void> RocksChunks::make_known(NamespaceId in, std::span<const KnownPage> pages) {
  Batch batch(database_);
  for (const KnownPage& page : pages) {
    batch.put_number(Family::kHash, hash_key(in, page.hash), page.chunk.value);
    batch.remove(Family::kMeta, quarantine_key(in, page.hash));
  }
  return database_.write(batch, Durability::kSynced);
}

Result<ChunkId> RocksChunks::next_chunk(NamespaceId in) {
  const Reserved* const reserved = TRY(reserve(in));
  return ChunkId::of(in.value, kWriter, reserved->next);
}

Result<ChunkId> RocksChunks::next_id(NamespaceId in) {
  Reserved* const reserved = TRY(reserve(in));
  return ChunkId::of(in.value, kWriter, reserved->next++);
}

/// The watermark goes into the log before any chunk that lies below it, and the log is recovered
/// as a prefix: an id that a recovered chunk has is never given out again.
Result<RocksChunks::Reserved*> RocksChunks::reserve(NamespaceId in) {
  Reserved& reserved = reserved_[in];
  if (reserved.next != reserved.end) return &reserved;
  const std::string key = prefixed(kWatermark, in);
  const std::uint64_t start = TRY(database_.get_number(Family::kMeta, key)).value_or(1);
  if (start > ChunkId::kMaxSequence - kReservedIds) {
    return fail(ErrorCode::kLimitExceeded, "the namespace has used up its chunk ids");
  }
  Batch batch(database_);
  batch.put_number(Family::kMeta, key, start + kReservedIds);
  TRY(database_.write(batch, Durability::kLogged));
  reserved = {start, start + kReservedIds};
  return &reserved;
}

}  // namespace thaw
