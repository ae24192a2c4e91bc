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
  if (--found->second == 0) pins_.erase(found);
}

bool SnapshotPins::is_pinned(NamespaceId in, SnapshotId snapshot) const {
  const std::lock_guard lock(mutex_);
  return pins_.contains({in, snapshot});
}

Result<bool> SnapshotPins::unless_pinned(NamespaceId in, SnapshotId snapshot,
                                         const std::function<Result<void>()>& remove) {
  const std::lock_guard lock(mutex_);
  if (pins_.contains({in, snapshot})) return false;
  TRY(remove());
  return true;
}

PeerPins::~PeerPins() {
  for (const auto& [in, snapshot] : held_) pins_->unpin(in, snapshot);
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
