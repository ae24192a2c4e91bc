#include "pageserver/page_hash_lists.h"

#include <algorithm>

#include "format/hash.h"
#include "format/page_map.h"

namespace thaw {

namespace {

/// The chunks of a segment in the order of their pages.
Result<std::vector<ChunkId>> chunks_of(ByteSpan sealed, std::uint32_t segment) {
  const PageIndex first{segment * limits::kSegmentPages};
  PageMap map;
  map.append_zero({first.value});  // a segment is decoded where it belongs
  if (const auto decoded = map.append_segment(sealed, {limits::kSegmentPages}); !decoded) {
    return fail(ErrorCode::kCorrupt, "segment {} of a page map: {}", segment,
                decoded.error().message());
  }
  std::vector<ChunkId> chunks;
  for (PageMap::Cursor cursor(map, first); !cursor.at_end(); cursor.next()) {
    const PageMap::Run run = cursor.rest();
    for (std::uint64_t i = 0; i < run.length.value && !run.zero(); ++i) {
      chunks.push_back({run.chunk.value + i});
    }
  }
  return chunks;
}

}  // namespace

Result<std::vector<Sha256>> hash_chunks(Store& store, std::span<const ChunkId> ids) {
  ChunkCodec codec;
  Hasher hasher;
  PlainPage plain;
  std::vector<Sha256> hashes;
  hashes.reserve(ids.size());
  while (!ids.empty()) {
    const auto now = ids.first(std::min(ids.size(), limits::kMaxChunksPerRequest));
    ids = ids.subspan(now.size());
    const auto read = store.read_chunks(now, 0);
    if (!read && read.error().code() == ErrorCode::kNotFound) {
      return fail(ErrorCode::kCorrupt, "a page is missing: {}", read.error().context());
    }
    if (!read) return std::unexpected(read.error());
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (const auto decoded = codec.decode(read->chunks[i], now[i], plain); !decoded) {
        return fail(ErrorCode::kCorrupt, "chunk {:#x}: {}", now[i].value,
                    decoded.error().message());
      }
      hashes.push_back(hasher.hash(plain));
    }
  }
  return hashes;
}

Result<PageHashLists::List> PageHashLists::get(Store& store, NamespaceId in, SnapshotId snapshot,
                                               std::uint32_t segment) {
  // Also tells whether the snapshot is there still.
  const Bytes sealed = TRY(store.page_map_segment(in, snapshot, segment));
  const Key key{in, snapshot, segment};
  if (List kept = find(key)) return kept;
  const std::vector<ChunkId> chunks = TRY(chunks_of(sealed, segment));
  const std::vector<Sha256> hashes = TRY(hash_chunks(store, chunks));
  const ByteSpan bytes = std::as_bytes(std::span(hashes));
  auto list = std::make_shared<const Bytes>(bytes.begin(), bytes.end());
  keep(key, list);
  return list;
}

PageHashLists::List PageHashLists::find(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->list;
}

void PageHashLists::keep(const Key& key, const List& list) {
  const std::lock_guard lock(mutex_);
  if (by_key_.contains(key)) return;  // another peer was quicker
  entries_.push_front({key, list});
  by_key_[key] = entries_.begin();
  bytes_ += size_of(entries_.front());
  while (bytes_ > most_) {
    bytes_ = {bytes_.value - size_of(entries_.back()).value};
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

ByteCount PageHashLists::kept() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace thaw
