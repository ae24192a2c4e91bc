#pragma once

#include <cstddef>
#include <memory>

#include "base/error.h"
#include "cli/image_walk.h"

namespace thaw {

/// Reads of parts of files, several under way at once. One thread.
class BlockReads {
 public:
  /// Most that can be under way.
  static constexpr std::size_t kMost = 32;

  virtual ~BlockReads() = default;

  /// Has `read` done for `owner`. REQUIRES: fewer than kMost are under way.
  virtual Result<void> begin(const FileRead& read, std::size_t owner) = 0;
  /// How many are under way, finished ones that were not taken included.
  virtual std::size_t under_way() const = 0;
  /// Whether finish_one() would not wait.
  virtual bool any_finished() = 0;
  /// The owner of a read that is done. kTruncated if its file ended early. REQUIRES: one is under
  /// way.
  virtual Result<std::size_t> finish_one() = 0;
};

/// With io_uring, or one after the other where it cannot be had. `memory` is where all reads go.
std::unique_ptr<BlockReads> create_block_reads(MutableByteSpan memory);

}  // namespace thaw
