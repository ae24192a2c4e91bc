#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/types.h"
#include "base/unique_fd.h"
#include "format/manifest.h"

namespace thaw {

/// Most pages of a piece that has data: 4 MiB of the image.
inline constexpr std::uint64_t kPieceDataPages = 1024;

/// What the holes of a memory file stand for.
enum class Holes { kZeros, kPagesOfParent };

/// What a push reads: memory, then state, as `spec` says. The files belong to the caller.
struct ImageFiles {
  const UniqueFd& memory;
  const UniqueFd& state;
  const SnapshotSpec& spec;
  Holes holes;
};

/// Neighbouring pages of memory alone or of state alone. A piece with data has at most
/// kPieceDataPages, one without at most limits::kMaxOfferPages.
struct ImagePiece {
  PageIndex first;
  PageCount count;
  std::vector<PageRange> data;  // in order; what lies between is holes
};

/// A part of a file that is to be read into memory.
struct FileRead {
  const UniqueFd* file;
  std::uint64_t offset;
  MutableByteSpan to;
};

/// Cuts an image into pieces, in order, and finds its holes. Holes of a part of a page count as
/// data. One thread.
class ImageWalk {
 public:
  explicit ImageWalk(const ImageFiles& image) : image_(image) {}

  /// Nothing at the image's end. kTruncated when the memory file has become shorter.
  Result<std::optional<ImagePiece>> next();
  /// What brings the piece's data into a buffer, each page at its place in the piece. The rest of
  /// the state's last page is made zero.
  std::vector<FileRead> reads(const ImagePiece& piece, MutableByteSpan buffer) const;

 private:
  Result<ImagePiece> memory_piece();
  ImagePiece state_piece() const;
  /// The next data from `page` on, in whole pages; empty at the memory's end when there is none.
  Result<PageRange> next_data_pages(PageIndex page);

  const ImageFiles image_;
  PageIndex next_;
  PageRange data_{};  // what was found last
};

}  // namespace thaw
