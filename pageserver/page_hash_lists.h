#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "pageserver/limits.h"
#include "pageserver/store.h"

namespace thaw {

/// The SHA-256 of the pages that these chunks hold. kCorrupt when one is missing or damaged.
Result<std::vector<Sha256>> hash_chunks(Store& store, std::span<const ChunkId> ids);

/// A handler that checks a restore against a content hash needs the hash of each page, and the
/// store leads only from hashes to chunks. So they are made of the chunks, a segment of the page
/// map at a time, which takes up to a second. The last lists stay in memory. Locks itself; no lock
/// is held while it reads.
class PageHashLists {
 public:
  using List = std::shared_ptr<const Bytes>;

  explicit PageHashLists(ByteCount most = {limits::kMaxKeptHashBytes}) : most_(most) {}

  /// The SHA-256 of each page of the segment that is not zero, in order. kNotFound, kCorrupt.
  Result<List> get(Store& store, NamespaceId in, SnapshotId snapshot, std::uint32_t segment);
  /// What it keeps.
  ByteCount kept() const;

 private:
  struct Key {
    NamespaceId in;
    SnapshotId snapshot;
    std::uint32_t segment = 0;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Entry {
    Key key;
    List list;
  };
  using Entries = std::list<Entry>;

  static ByteCount size_of(const Entry& entry) {
    return {entry.list->size() + limits::kKeptListBytes};
  }
  List find(const Key& key);
  void keep(const Key& key, const List& list);

  const ByteCount most_;
  mutable std::mutex mutex_;
  Entries entries_;  // used last first; guarded by mutex_, as what follows
  std::map<Key, Entries::iterator> by_key_;
  ByteCount bytes_{0};
};

}  // namespace thaw
