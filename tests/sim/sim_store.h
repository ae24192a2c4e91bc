#pragma once

#include <memory>

#include "tests/sim/schedule.h"
#include "tests/sim/snapshot.h"
#include "tests/support/unsupported_store.h"

namespace thaw::sim {

/// How bad a store is. Chances are of a thousand, each of a read.
struct StoreFaults {
  unsigned refused = 0;  // the read fails
  unsigned damaged = 0;  // one of what is read is not what was stored
  unsigned cold = 0;     // of the optional ones not all are at hand
};

/// The page server's store, as far as restores read it: one snapshot. One thread.
class SimStore final : public test::UnsupportedStore {
 public:
  SimStore(Schedule& schedule, const StoredSnapshot& snapshot, StoreFaults faults)
      : schedule_(schedule), snapshot_(snapshot), faults_(faults) {}

  void heal() { faults_ = {}; }
  /// Whether it has ever refused something or told something wrong.
  bool has_failed() const { return has_failed_; }

  Result<std::optional<NamespaceId>> find_namespace(const std::string& name) override;
  Result<Bytes> manifest(NamespaceId, const std::string& name) override;
  Result<Bytes> manifest(NamespaceId, SnapshotId snapshot) override;
  Result<ChunkRead> read_chunks(std::span<const ChunkId> ids, std::size_t optional) override;
  Result<PackRead> pack(NamespaceId, const PackId& id) override;

 private:
  Result<void> maybe_refuse();
  void damage(Bytes& stored);

  Schedule& schedule_;
  const StoredSnapshot& snapshot_;
  StoreFaults faults_;
  bool has_failed_ = false;
};

}  // namespace thaw::sim
