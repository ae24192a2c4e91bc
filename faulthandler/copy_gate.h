#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace thaw {

/// Keeps copies of prefetched pages, made by other threads, apart from the reading of a VM's
/// events. When the loop reads a REMOVE, the VMM goes on and its pages go: a copy that was decided
/// before and made after would bring them back. So copies are made between two readings, and only
/// while nothing has changed since they were decided. Locks itself.
///
/// The loop goes first; it waits for the copies under way alone, each of which is short.
class CopyGate {
 public:
  /// Something about the memory has changed (REMOVE, UNMAP, REMAP, its end) whenever it differs.
  using Epoch = std::uint64_t;

  /// On the loop's thread, when copies are decided.
  Epoch epoch() const;

  /// On another thread: runs `copy`, unless anything has changed since `decided`; false then.
  template <typename Copy>
  bool try_copy(Epoch decided, Copy copy) {
    if (!enter(decided)) return false;
    copy();
    leave();
    return true;
  }

  /// On the loop's thread: no copy is under way while it lives.
  class Reading {
   public:
    explicit Reading(CopyGate& gate);
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading();
    /// What was decided before is not to be copied any more.
    void note_change() { changed_ = true; }

   private:
    CopyGate& gate_;
    bool changed_ = false;
  };

 private:
  bool enter(Epoch decided);
  void leave();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Epoch epoch_ = 0;       // guarded by mutex_
  unsigned copying_ = 0;  // guarded by mutex_
  bool reading_ = false;  // guarded by mutex_
};

}  // namespace thaw
