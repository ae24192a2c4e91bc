#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <set>

#include "pageserver/store.h"
#include "pageserver/sys/rocks_account.h"
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

  Result<void> put_packs(NamespaceId in, const PackId& first,
                         std::span<const Bytes> packs) override;
  Result<void> discard_packs(NamespaceId in, SnapshotId snapshot) override;
  Result<void> publish(NamespaceId in, const WorkingSet& set,
                       const std::optional<NewRecording>& recording) override;
  Result<void> withdraw(NamespaceId in, SnapshotId snapshot) override;
  Result<void> drop_recording(NamespaceId in, SnapshotId snapshot, std::uint64_t number) override;
  Result<void> drop(NamespaceId in, SnapshotId snapshot) override;
  Result<void> add(NamespaceId in, SnapshotId snapshot,
                   const message::PrefetchCounters& report) override;

  /// How much recordings, sets and packs may have, and which snapshots lose theirs for it.
  struct Room {
    std::uint64_t most_bytes;
    SnapshotId below = {UINT64_MAX};  // those with lower ids, the lowest first
  };
  /// Adds to `batch` what deletes as much as it takes, or all that there is to delete.
  Result<void> make_room(AccountedBatch& batch, NamespaceId in, const Room& room);
  /// Adds to `batch` what deletes everything of a snapshot, the last number of a recording too.
  Result<void> remove(AccountedBatch& batch, NamespaceId in, SnapshotId snapshot);
  /// Deletes packs of all sets that were not published.
  Result<void> discard_all_packs(NamespaceId in);

 private:
  /// Generations, and the bytes of their packs.
  using Generations = std::map<std::uint64_t, std::uint64_t>;
  /// Of sets that were published, or of those that were not, by kind.
  Result<Generations> generations(char kind, NamespaceId in, SnapshotId snapshot);
  /// Snapshots with lower ids that have entries of these kinds.
  Result<std::set<SnapshotId>> holders(std::initializer_list<char> kinds, NamespaceId in,
                                       SnapshotId below = {UINT64_MAX});
  /// Makes room for what the batch adds for a snapshot; kQuotaExceeded.
  Result<void> admit(AccountedBatch& batch, NamespaceId in, SnapshotId snapshot);
  Result<void> remove_set(AccountedBatch& batch, NamespaceId in, SnapshotId snapshot);
  Result<void> remove_all_but_the_last_number(AccountedBatch& batch, NamespaceId in,
                                              SnapshotId snapshot);

  RocksDatabase& database_;
};

}  // namespace thaw
