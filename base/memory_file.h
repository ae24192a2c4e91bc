#pragma once

#include <string>

#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// Files in memory alone (memfd_create(2)). Safe from any thread.

/// A file of holes, without a name; `what` stands in /proc. Nobody but its maker and root can open
/// it again for writing.
Result<UniqueFd> create_memory_file(const std::string& what, ByteCount size);

/// From now on the file keeps its size. Returns a descriptor of it for reading, to be given away.
/// (F_SEAL_FUTURE_WRITE would keep root out too, but also whoever goes on with the file after this
/// process.)
Result<UniqueFd> seal_memory_file(const UniqueFd& file);

/// Whether a file that was given to us keeps its size: else whoever has mapped it may die of
/// SIGBUS at any time.
bool keeps_its_size(const UniqueFd& file);

/// What the file takes up, swapped out or not; holes do not.
Result<ByteCount> allocated_bytes(const UniqueFd& file);

}  // namespace thaw
