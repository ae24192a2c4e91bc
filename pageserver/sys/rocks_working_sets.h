#pragma once

#include <map>

#include "pageserver/store.h"
#include "pageserver/sys/rocks_database.h"

namespace thaw {

/// The part of the store on RocksDB that keeps recordings, working sets and packs. A set is visible
/// when its one synced batch is in the store; its packs are written before. Threads as Store says.
class RocksWorkingSets final : public WorkingSetStore {
 public:
  explicit RocksWorkingSets(RocksDatabase& database) : database_(database) {}

  Result<WorkingSetState> state(NamespaceId in, SnapshotId snapshot) override;
  Result<Bytes> recording(NamespaceId in, SnapshotId snapshot, std::uint64_t number) override;
  Result<Bytes> working_set(NamespaceId in, SnapshotId snapshot) override;
  Result<PackRead> pack(NamespaceId in, const PackId& id) override;
  Result<message::PrefetchCounters> counters(NamespaceId in, SnapshotId snapshot) override;

  Result<void> put_pack(NamespaceId in, const PackId& id, ByteSpan pack) override;
  Result<void> publish(NamespaceId in, const WorkingSet& set,
                       const std::optional<NewRecording>& recording) override;
  Result<void> withdraw(NamespaceId in, SnapshotId snapshot) override;
  Result<void> drop_recording(NamespaceId in, SnapshotId snapshot, std::uint64_t number) override;
  Result<void> drop(NamespaceId in, SnapshotId snapshot) override;
  Result<void> add(NamespaceId in, SnapshotId snapshot,
                   const message::PrefetchCounters& report) override;

  /// Of all published sets in a namespace.
  Result<std::uint64_t> pack_bytes(NamespaceId in);
  /// Adds to `batch` what deletes everything of a snapshot, the last number of a recording too.
  Result<void> remove(RocksDatabase::Batch& batch, NamespaceId in, SnapshotId snapshot);

 private:
  /// The generations that have packs, and the bytes of those.
  using Generations = std::map<std::uint64_t, std::uint64_t>;
  Result<Generations> generations(NamespaceId in, SnapshotId snapshot);
  Result<void> remove_set(RocksDatabase::Batch& batch, NamespaceId in, SnapshotId snapshot);
  Result<void> remove_all_but_the_last_number(RocksDatabase::Batch& batch, NamespaceId in,
                                              SnapshotId snapshot);

  RocksDatabase& database_;
};

}  // namespace thaw
