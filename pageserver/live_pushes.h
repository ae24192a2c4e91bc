#pragma once

#include <mutex>
#include <set>

#include "pageserver/chunk_set.h"
#include "pageserver/push.h"

namespace thaw {

/// The pushes that are under way: what they have been told is there, or have stored, is in use
/// although no snapshot has it yet. Any thread.
class LivePushes {
 public:
  void add(Push& push) {
    const std::lock_guard lock(mutex_);
    pushes_.insert(&push);
  }
  /// Before it is destroyed.
  void remove(Push& push) {
    const std::lock_guard lock(mutex_);
    pushes_.erase(&push);
  }
  /// Adds the chunks that the pushes into a namespace stand on. A push that has looked up a page
  /// before this call has it in the set; one that looks it up later must not find a chunk that is
  /// to go.
  void mark(NamespaceId in, ChunkSet& to) const {
    const std::lock_guard lock(mutex_);
    for (Push* const push : pushes_) {
      if (push->name_space() == in) push->mark(to);
    }
  }

 private:
  mutable std::mutex mutex_;
  std::set<Push*> pushes_;  // guarded by mutex_
};

}  // namespace thaw
