#pragma once

#include <vector>

#include "base/error.h"
#include "base/types.h"

namespace thaw {

/// Which pages of [start, start + size), memory that this process maps privately from a file, are
/// its own: copies because they were written, or put there for it alone. Swapped out or not. The
/// others are the file's, or nobody has touched them. From /proc/self/pagemap, whose bits are
/// described in the kernel's Documentation/admin-guide/mm/pagemap.rst. REQUIRES: whole pages.
Result<std::vector<bool>> own_pages(HostAddress start, ByteCount size);

/// Which pages of [start, start + size), memory whose writes are tracked (WriteTracking in
/// base/userfaultfd.h), were written since they were filled. Pages that are missing count as
/// unwritten. From the ioctl PAGEMAP_SCAN of Linux 6.7, in the same document. kPermission: writes
/// to this memory are not tracked. REQUIRES: whole pages.
Result<std::vector<bool>> written_pages(HostAddress start, ByteCount size);

}  // namespace thaw
