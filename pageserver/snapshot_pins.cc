#include "pageserver/snapshot_pins.h"

#include "base/check.h"
#include "pageserver/limits.h"

namespace thaw {

Result<void> SnapshotPins::pin(Store& store, NamespaceId in, SnapshotId snapshot) {
  const std::lock_guard lock(mutex_);
  TRY(store.manifest(in, snapshot));
  ++pins_[{in, snapshot}];
  return {};
}

void SnapshotPins::unpin(NamespaceId in, SnapshotId snapshot) {
  const std::lock_guard lock(mutex_);
  const auto found = pins_.find({in, snapshot});
  CHECK(found != pins_.end());
  if (--found->second > 0) return;
  pins_.erase(found);
  unpinned_[{in, snapshot}] = Clock::now();
}

bool SnapshotPins::is_settled(NamespaceId in, SnapshotId snapshot) {
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  std::erase_if(unpinned_, [&](const auto& entry) { return now - entry.second >= grace_; });
  return now - started_ >= grace_ && !pins_.contains({in, snapshot}) &&
         !unpinned_.contains({in, snapshot});
}

Result<bool> SnapshotPins::unless_pinned(NamespaceId in, SnapshotId snapshot,
                                         const std::function<Result<void>()>& remove) {
  const std::lock_guard lock(mutex_);
  if (pins_.contains({in, snapshot})) return false;
  TRY(remove());
  return true;
}

void PeerPins::unpin_all() {
  for (const auto& [in, snapshot] : std::exchange(held_, {})) pins_->unpin(in, snapshot);
}

Result<void> PeerPins::pin(Store& store, NamespaceId in, SnapshotId snapshot) {
  if (held_.contains({in, snapshot})) return {};
  if (held_.size() == limits::kMaxPinsPerPeer) {
    return fail(ErrorCode::kLimitExceeded, "{} pinned snapshots are what a peer may have",
                limits::kMaxPinsPerPeer);
  }
  TRY(pins_->pin(store, in, snapshot));
  held_.emplace(in, snapshot);
  return {};
}

void PeerPins::unpin(NamespaceId in, SnapshotId snapshot) {
  if (held_.erase({in, snapshot}) > 0) pins_->unpin(in, snapshot);
}

}  // namespace thaw
