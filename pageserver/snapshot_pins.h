#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "base/clock.h"
#include "pageserver/store.h"

namespace thaw {

/// Which snapshots are being restored, or are the parent of a push: those stay. Any thread.
class SnapshotPins {
 public:
  /// A pin that was lost with its connection, or with the server before this one, may come back
  /// within `grace`.
  explicit SnapshotPins(Nanoseconds grace = {}) : grace_(grace) {}

  /// kNotFound when there is no such snapshot. One that is being removed is waited for, and no
  /// other.
  Result<void> pin(Store& store, NamespaceId in, SnapshotId snapshot);
  /// REQUIRES: a pin for each.
  void unpin(NamespaceId in, SnapshotId snapshot);

  /// Runs `remove` unless the snapshot is pinned (false); it cannot be pinned meanwhile. One at a
  /// time for a snapshot.
  Result<bool> unless_pinned(NamespaceId in, SnapshotId snapshot,
                             const std::function<Result<void>()>& remove);
  /// Whether it has had no pin for the time of grace.
  bool is_settled(NamespaceId in, SnapshotId snapshot);
  /// How many have lost their last pin of late, of which some may still be within the grace.
  std::size_t lately_unpinned() const;

 private:
  using Key = std::pair<NamespaceId, SnapshotId>;

  void forget_old(Clock::time_point now);

  const Nanoseconds grace_;
  const Clock::time_point started_ = Clock::now();

  mutable std::mutex mutex_;
  std::condition_variable removed_;
  std::map<Key, std::uint64_t> pins_;            // guarded by mutex_; none is 0
  std::set<Key> being_removed_;                  // guarded by mutex_
  std::map<Key, Clock::time_point> unpinned_;    // guarded by mutex_; when
  Clock::time_point looked_through_ = started_;  // guarded by mutex_; all of unpinned_
};

/// The pins of one peer, which go with it. One thread.
class PeerPins {
 public:
  explicit PeerPins(SnapshotPins& pins) : pins_(&pins) {}
  PeerPins(PeerPins&& other) noexcept : pins_(other.pins_), held_(std::exchange(other.held_, {})) {}
  PeerPins& operator=(PeerPins&&) = delete;
  ~PeerPins() { unpin_all(); }

  /// Once for each snapshot, however often it is asked for. kLimitExceeded, kNotFound.
  Result<void> pin(Store& store, NamespaceId in, SnapshotId snapshot);
  void unpin(NamespaceId in, SnapshotId snapshot);
  void unpin_all();

 private:
  SnapshotPins* pins_;
  std::set<std::pair<NamespaceId, SnapshotId>> held_;
};

}  // namespace thaw
