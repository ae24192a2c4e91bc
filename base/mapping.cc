#include "base/mapping.h"

#include <cerrno>
#include <utility>

#include <linux/mman.h>
#include <sys/mman.h>

#include "base/check.h"
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

struct MapRequest {
  ByteCount size;
  int protection = PROT_READ | PROT_WRITE;
  int flags = MAP_PRIVATE;
  int file = -1;
  ByteCount offset{};
};

Result<MutableByteSpan> map(const MapRequest& request) {
  const std::size_t size = request.size.value;
  if (size == 0) return fail(ErrorCode::kInvalidArgument, "cannot map 0 bytes");
  void* const at = ::mmap(nullptr, size, request.protection, request.flags, request.file,
                          static_cast<off_t>(request.offset.value));
  if (at == MAP_FAILED) {
    const bool no_huge_pages = (request.flags & MAP_HUGETLB) != 0 && errno == ENOMEM;
    return fail_errno(fmt::format("map {} bytes of memory", size), no_huge_pages ? ENOSPC : errno);
  }
  // SAFETY: the kernel returned a fresh mapping of exactly this size.
  return MutableByteSpan(static_cast<std::byte*>(at), size);
}

}  // namespace

/// Transparent huge pages would hide missing neighbours from userfaultfd, or put zeros there.
Result<Mapping> Mapping::with_small_pages(Mapping mapping) {
  if (::madvise(mapping.bytes_.data(), mapping.bytes_.size(), MADV_NOHUGEPAGE) != 0 &&
      errno != EINVAL) {  // EINVAL: a kernel built without transparent huge pages
    return fail_errno("madvise MADV_NOHUGEPAGE");
  }
  return mapping;
}

Result<Mapping> Mapping::anonymous(ByteCount size) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  return with_small_pages(Mapping(TRY(map({.size = size, .flags = kFlags}))));
}

Result<Mapping> Mapping::anonymous_huge(ByteCount size) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB;
  return Mapping(TRY(map({.size = size, .flags = kFlags})));
}

Result<Mapping> Mapping::shared(const UniqueFd& file, ByteCount size) {
  return with_small_pages(
      Mapping(TRY(map({.size = size, .flags = MAP_SHARED, .file = file.get()}))));
}

Result<Mapping> Mapping::copy_on_write(const UniqueFd& file, ByteCount offset, ByteCount size) {
  return with_small_pages(Mapping(TRY(map({.size = size,
                                           .protection = PROT_NONE,
                                           .flags = MAP_PRIVATE | MAP_NORESERVE,
                                           .file = file.get(),
                                           .offset = offset}))));
}

Result<void> Mapping::allow_access() {
  if (::mprotect(bytes_.data(), bytes_.size(), PROT_READ | PROT_WRITE) != 0) {
    return fail_errno("mprotect");
  }
  return {};
}

Result<void> Mapping::discard(ByteCount offset, ByteCount length) {
  CHECK(within(offset.value, length.value, bytes_.size()));
  if (::madvise(bytes_.data() + offset.value, length.value, MADV_DONTNEED) != 0) {
    return fail_errno("madvise MADV_DONTNEED");
  }
  return {};
}

Result<Mapping> Mapping::private_file(const UniqueFd& file, ByteCount size) {
  const ByteCount available = TRY(file_size(file));
  if (available < size) {
    return fail(ErrorCode::kTruncated, "the file has {} bytes, not {}", available.value,
                size.value);
  }
  Mapping mapping = TRY(copy_on_write(file, {0}, size));
  TRY(mapping.allow_access());
  return mapping;
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
