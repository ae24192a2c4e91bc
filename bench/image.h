#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "format/chunk.h"

namespace thaw::bench {

/// A memory image, mapped to be read. Immutable; its pages are for any thread.
class ImageFile {
 public:
  /// kInvalidArgument: a file that is empty or no whole number of pages.
  static Result<ImageFile> open(const std::string& path);
  ImageFile(ImageFile&& other) noexcept;
  ImageFile& operator=(ImageFile&&) = delete;
  ~ImageFile();

  ByteSpan bytes() const { return bytes_; }
  std::size_t pages() const { return bytes_.size() / kPageBytes; }
  /// REQUIRES: index < pages().
  PageSpan page(std::size_t index) const;

 private:
  explicit ImageFile(ByteSpan bytes) : bytes_(bytes) {}

  ByteSpan bytes_;
};

/// The pages of an image by what is in them, in ascending order.
struct PageKinds {
  std::vector<std::uint32_t> content;
  std::vector<std::uint32_t> zero;
};
PageKinds sort_pages(const ImageFile& image);

}  // namespace thaw::bench
