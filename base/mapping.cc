#include "base/mapping.h"

#include <cerrno>
#include <utility>

#include <linux/mman.h>
#include <sys/mman.h>

#include "base/file.h"

namespace thaw {

Mapping::Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

HostAddress Mapping::address() const {
  // SAFETY: an address as a number; it is compared and handed to the kernel, not dereferenced.
  return {reinterpret_cast<std::uint64_t>(bytes_.data())};
}

namespace {

Result<MutableByteSpan> map_private(ByteCount size, int flags, int file) {
  if (size.value == 0) return fail(ErrorCode::kInvalidArgument, "cannot map 0 bytes");
  void* const at =
      ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, file, 0);
  if (at == MAP_FAILED) {
    const int error_number = (flags & MAP_HUGETLB) != 0 && errno == ENOMEM ? ENOSPC : errno;
    return fail_errno(fmt::format("map {} bytes of memory", size.value), error_number);
  }
  // SAFETY: the kernel returned a fresh mapping of exactly this size.
  return MutableByteSpan(static_cast<std::byte*>(at), size.value);
}

}  // namespace

Result<Mapping> Mapping::anonymous(ByteCount size) {
  Mapping mapping(TRY(map_private(size, MAP_ANONYMOUS | MAP_NORESERVE, -1)));
  if (::madvise(mapping.bytes_.data(), mapping.bytes_.size(), MADV_NOHUGEPAGE) != 0 &&
      errno != EINVAL) {  // EINVAL: a kernel built without transparent huge pages
    return fail_errno("madvise MADV_NOHUGEPAGE");
  }
  return mapping;
}

Result<Mapping> Mapping::anonymous_huge(ByteCount size) {
  return Mapping(TRY(map_private(size, MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1)));
}

Result<Mapping> Mapping::private_file(const UniqueFd& file, ByteCount size) {
  const ByteCount available = TRY(file_size(file));
  if (available < size) {
    return fail(ErrorCode::kTruncated, "the file has {} bytes, not {}", available.value,
                size.value);
  }
  return Mapping(TRY(map_private(size, MAP_NORESERVE, file.get())));
}

Result<void> keep_to_this_process(HostAddress start, ByteCount size) {
  // SAFETY: the advice concerns children and core dumps; it changes no content of this process.
  void* const at = reinterpret_cast<void*>(start.value);
  for (const int advice : {MADV_DONTFORK, MADV_DONTDUMP}) {
    if (::madvise(at, size.value, advice) != 0) {
      return fail_errno(fmt::format("madvise {} on guest memory", advice));
    }
  }
  return {};
}

}  // namespace thaw
