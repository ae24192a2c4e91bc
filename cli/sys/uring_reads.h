#pragma once

#include <memory>

#include "cli/block_reads.h"

namespace thaw {

/// Fails where io_uring is forbidden or too old.
Result<std::unique_ptr<BlockReads>> create_uring_reads(MutableByteSpan memory);

}  // namespace thaw
