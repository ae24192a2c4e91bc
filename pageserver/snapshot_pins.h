#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "pageserver/chunk_set.h"
#include "pageserver/store.h"

namespace thaw {

/// Which snapshots are being restored, or are the parent of a push: those stay. Any thread.
class SnapshotPins {
 public:
  /// kNotFound when there is no such snapshot.
  Result<void> pin(Store& store, NamespaceId in, SnapshotId snapshot);
  /// REQUIRES: a pin for each.
  void unpin(NamespaceId in, SnapshotId snapshot);
  bool is_pinned(NamespaceId in, SnapshotId snapshot) const;

  /// Runs `remove` unless the snapshot is pinned (false); nobody can pin it meanwhile.
  Result<bool> unless_pinned(NamespaceId in, SnapshotId snapshot,
                             const std::function<Result<void>()>& remove);

 private:
  using Key = std::pair<NamespaceId, SnapshotId>;

  mutable std::mutex mutex_;
  std::map<Key, std::uint64_t> pins_;  // guarded by mutex_; none is 0
};

/// The pins of one peer, which go with it. One thread.
class PeerPins {
 public:
  explicit PeerPins(SnapshotPins& pins) : pins_(&pins) {}
  PeerPins(PeerPins&& other) noexcept : pins_(other.pins_), held_(std::exchange(other.held_, {})) {}
  PeerPins& operator=(PeerPins&&) = delete;
  ~PeerPins();

  /// Once for each snapshot, however often it is asked for. kLimitExceeded, kNotFound.
  Result<void> pin(Store& store, NamespaceId in, SnapshotId snapshot);
  void unpin(NamespaceId in, SnapshotId snapshot);

 private:
  SnapshotPins* pins_;
  std::set<std::pair<NamespaceId, SnapshotId>> held_;
};

}  // namespace thaw
