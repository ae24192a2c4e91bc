#pragma once

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// An owned mmap(2) span, unmapped on destruction. Moves, does not copy. The bytes may be used by
/// several threads; the object by one.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  /// Private anonymous memory, not reserved and not yet present, with 4 KiB pages: transparent
  /// huge pages are off, since one would hide missing neighbours from userfaultfd.
  static Result<Mapping> anonymous(ByteCount size);
  /// Private anonymous memory from the 2 MiB hugetlbfs pool; kNoSpace when the pool is too small.
  static Result<Mapping> anonymous_huge(ByteCount size);
  /// The first `size` bytes of a file; what is written there stays with this process. kTruncated
  /// when the file has fewer.
  static Result<Mapping> private_file(const UniqueFd& file, ByteCount size);

  MutableByteSpan bytes() const { return bytes_; }
  HostAddress address() const;
  ByteCount size() const { return {bytes_.size()}; }

 private:
  explicit Mapping(MutableByteSpan bytes) : bytes_(bytes) {}

  MutableByteSpan bytes_;
};

/// Keeps mapped memory out of forked children, which would read zeros where pages are missing, and
/// out of core dumps.
Result<void> keep_to_this_process(HostAddress start, ByteCount size);

}  // namespace thaw
