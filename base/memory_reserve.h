#pragma once

#include "base/types.h"

namespace thaw {

/// When a process may take no more memory (a limit of its address space, or of what the host lets
/// programs be promised), any allocation throws std::bad_alloc, in places too where nothing can be
/// refused. So some is kept back for those. Large allocations that a peer has asked for are made
/// within AllocationsMayFail, and never use it up.

/// From now on so much is kept back. Nothing of it is touched, so that it takes up no memory that
/// others could use. Once, before there are other threads. Without memory for it, it is tried again
/// as below.
void keep_memory_reserve(ByteCount size);

/// The allocations of the thread that throw as ever, as long as this lives.
class AllocationsMayFail {
 public:
  AllocationsMayFail();
  AllocationsMayFail(const AllocationsMayFail&) = delete;
  AllocationsMayFail& operator=(const AllocationsMayFail&) = delete;
  ~AllocationsMayFail();

  /// False: the reserve is used up, and there is no memory yet for another one. Then the caller
  /// should not ask for much. True where none is kept.
  bool has_reserve() const { return has_reserve_; }

 private:
  const bool before_;
  const bool has_reserve_;
};

}  // namespace thaw
