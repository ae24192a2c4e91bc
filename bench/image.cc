#include "bench/image.h"

#include <utility>

#include <sys/mman.h>

#include "base/check.h"
#include "base/file.h"

namespace thaw::bench {

Result<ImageFile> ImageFile::open(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path));
  const std::uint64_t size = TRY(file_size(file)).value;
  if (size == 0 || size % kPageBytes != 0) {
    return fail(ErrorCode::kInvalidArgument, "{} has {} bytes, no whole pages", path, size);
  }
  void* const at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (at == MAP_FAILED) return fail_errno("map " + path);
  // SAFETY: the kernel returned a fresh mapping of exactly this size.
  return ImageFile(ByteSpan(static_cast<const std::byte*>(at), size));
}

ImageFile::ImageFile(ImageFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

ImageFile::~ImageFile() {
  // SAFETY: only the type says const; the mapping is ours alone.
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

PageSpan ImageFile::page(std::size_t index) const {
  CHECK(index < pages());
  return bytes_.subspan(index * kPageBytes).first<kPageBytes>();
}

PageKinds sort_pages(const ImageFile& image) {
  PageKinds kinds;
  for (std::size_t i = 0; i < image.pages(); ++i) {
    auto& kind = is_zero_page(image.page(i)) ? kinds.zero : kinds.content;
    kind.push_back(static_cast<std::uint32_t>(i));
  }
  return kinds;
}

}  // namespace thaw::bench
