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

  /// The first bytes of a file, to be read, and written for all who map it. What is missing
  /// in the file is made by the first touch.
  static Result<Mapping> shared(const UniqueFd& file, ByteCount size);
  /// Bytes of a file from `offset` on; what is written stays with this mapping. Before
  /// allow_access() nothing can touch it: nor the kernel, for a process that locks its memory.
  static Result<Mapping> copy_on_write(const UniqueFd& file, ByteCount offset, ByteCount size);
  Result<void> allow_access();
  /// Gives back what [offset, offset + length) has (MADV_DONTNEED). REQUIRES: it is in the mapping,
  /// and whole pages.
  Result<void> discard(ByteCount offset, ByteCount length);

  MutableByteSpan bytes() const { return bytes_; }
  HostAddress address() const;
  ByteCount size() const { return {bytes_.size()}; }

 private:
  explicit Mapping(MutableByteSpan bytes) : bytes_(bytes) {}
  static Result<Mapping> with_small_pages(Mapping mapping);

  MutableByteSpan bytes_;
};

/// Keeps mapped memory out of forked children, which would read zeros where pages are missing, and
/// out of core dumps.
Result<void> keep_to_this_process(HostAddress start, ByteCount size);

}  // namespace thaw
