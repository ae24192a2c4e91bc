#include "pageserver/snapshot_pins.h"

#include "base/check.h"
#include "pageserver/limits.h"

namespace thaw {

Result<void> SnapshotPins::pin(Store& store, NamespaceId in, SnapshotId snapshot) {
  const Key key{in, snapshot};
  {
    std::unique_lock lock(mutex_);
    removed_.wait(lock, [&] { return !being_removed_.contains(key); });
    ++pins_[key];
  }
  // It counts already, so that what is found cannot be removed any more.
  const auto found = store.manifest(in, snapshot);
  if (found) return {};
  const std::lock_guard lock(mutex_);
  if (--pins_.at(key) == 0) pins_.erase(key);
  return std::unexpected(found.error());
}

void SnapshotPins::unpin(NamespaceId in, SnapshotId snapshot) {
  const std::lock_guard lock(mutex_);
  const auto found = pins_.find({in, snapshot});
  CHECK(found != pins_.end());
  if (--found->second > 0) return;
  pins_.erase(found);
  const auto now = Clock::now();
  unpinned_[{in, snapshot}] = now;
  // Once in a grace: so many are kept as lose their last pin within two of them.
  if (now - looked_through_ >= grace_) forget_old(now);
}

bool SnapshotPins::is_settled(NamespaceId in, SnapshotId snapshot) {
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  forget_old(now);
  return now - started_ >= grace_ && !pins_.contains({in, snapshot}) &&
         !unpinned_.contains({in, snapshot});
}

std::size_t SnapshotPins::lately_unpinned() const {
  const std::lock_guard lock(mutex_);
  return unpinned_.size();
}

void SnapshotPins::forget_old(Clock::time_point now) {
  std::erase_if(unpinned_, [&](const auto& entry) { return now - entry.second >= grace_; });
  looked_through_ = now;
}

Result<bool> SnapshotPins::unless_pinned(NamespaceId in, SnapshotId snapshot,
                                         const std::function<Result<void>()>& remove) {
  const Key key{in, snapshot};
  {
    const std::lock_guard lock(mutex_);
    if (pins_.contains(key)) return false;
    being_removed_.insert(key);
  }
  const auto removed = remove();
  {
    const std::lock_guard lock(mutex_);
    being_removed_.erase(key);
  }
  removed_.notify_all();
  TRY(removed);
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
