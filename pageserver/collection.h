#pragma once

#include <cstdint>

#include "pageserver/chunk_set.h"
#include "pageserver/job.h"
#include "pageserver/live_pushes.h"
#include "pageserver/snapshot_pins.h"
#include "pageserver/store.h"

namespace thaw {

struct CollectionReport {
  std::uint64_t snapshots = 0;
  std::uint64_t live_chunks = 0;  // of snapshots and of pushes under way
  std::uint64_t dead_chunks = 0;  // deleted, or to be deleted
  std::uint64_t dead_bytes = 0;
};

/// One garbage collection of a namespace, beside pushes and restores: chunks that no snapshot has
/// and no push under way stands on are condemned, so that pushes do not meet them any more; what
/// pushes have met in between is left alone; the others go. Ended at any point, even by a crash, it
/// leaves a consistent store, and the next collection goes on. One at a time for a store.
class Collection {
 public:
  Collection(Store& store, NamespaceId in, SnapshotPins& pins, const LivePushes& pushes,
             JobControl& control)
      : store_(store), name_space_(in), pins_(pins), pushes_(pushes), control_(control) {}

  Result<CollectionReport> run();
  /// What run() would delete now.
  Result<CollectionReport> dry_run();

 private:
  ChunkUpkeep& chunks() const { return store_.chunk_upkeep(); }
  Result<void> remove_retired();
  Result<void> mark_snapshots();
  Result<void> find_dead();
  Result<void> forget_dead();
  Result<void> spare_what_is_used();
  Result<void> sweep();

  Store& store_;
  const NamespaceId name_space_;
  SnapshotPins& pins_;
  const LivePushes& pushes_;
  JobControl& control_;

  SnapshotId marked_;  // all up to this one are in live_
  ChunkSet live_;
  ChunkSet recorded_;  // condemned in earlier collections
  ChunkSet dead_;
  CollectionReport report_;
};

}  // namespace thaw
