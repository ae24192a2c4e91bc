#include "cli/image_walk.h"

#include <algorithm>

#include "format/limits.h"

namespace thaw {

static_assert(kPieceDataPages <= limits::kMaxOfferPages);

Result<std::optional<ImagePiece>> ImageWalk::next() {
  if (next_.value == image_.spec.image_pages().value) return std::optional<ImagePiece>();
  const bool memory = next_.value < image_.spec.memory_pages().value;
  ImagePiece piece = memory ? TRY(memory_piece()) : state_piece();
  next_ += piece.count;
  return std::optional(std::move(piece));
}

Result<ImagePiece> ImageWalk::memory_piece() {
  const std::uint64_t size = TRY(file_size(image_.memory)).value;
  if (size < image_.spec.memory.value) {
    return fail(ErrorCode::kTruncated, "the memory image ends at {} of {} bytes", size,
                image_.spec.memory.value);
  }
  const PageIndex memory_end{image_.spec.memory_pages().value};
  PageRange data = TRY(next_data_pages(next_));
  const PageCount hole = data.first - next_;
  if (data.count.value == 0 || hole.value >= kPieceDataPages) {
    return ImagePiece{next_, {std::min<std::uint64_t>(hole.value, limits::kMaxOfferPages)}, {}};
  }
  ImagePiece piece{next_, {std::min(kPieceDataPages, (memory_end - next_).value)}, {}};
  const PageIndex end = piece.first + piece.count;
  while (data.first < end) {
    const PageCount count = std::min(data.count, end - data.first);
    piece.data.push_back({data.first, count});
    data = TRY(next_data_pages(data.first + count));
  }
  return piece;
}

ImagePiece ImageWalk::state_piece() const {
  const PageCount left = image_.spec.image_pages() - PageCount{next_.value};
  const PageCount count{std::min(kPieceDataPages, left.value)};
  return {next_, count, {{next_, count}}};
}

Result<PageRange> ImageWalk::next_data_pages(PageIndex page) {
  const PageIndex memory_end{image_.spec.memory_pages().value};
  if (page == memory_end) return PageRange{memory_end, {}};
  // Asked once for each extent: a file system may have to go through all of it to find its end.
  if (data_.first + data_.count <= page) {
    const auto found = TRY(next_data(image_.memory, offset_of(page).value));
    const std::uint64_t size = image_.spec.memory.value;
    if (!found || found->begin >= size) {
      data_ = {memory_end, {}};
      return data_;
    }
    const PageIndex begin = page_of({found->begin});
    const PageIndex end{pages_for({std::min(found->end, size)}).value};
    data_ = {begin, end - begin};
  }
  const PageIndex begin = std::max(page, data_.first);
  return PageRange{begin, data_.first + data_.count - begin};
}

std::vector<FileRead> ImageWalk::reads(const ImagePiece& piece, MutableByteSpan buffer) const {
  const PageIndex state_start{image_.spec.memory_pages().value};
  std::vector<FileRead> reads;
  for (const PageRange& range : piece.data) {
    const MutableByteSpan to =
        buffer.subspan(bytes_of(range.first - piece.first).value, bytes_of(range.count).value);
    if (range.first < state_start) {
      reads.push_back({&image_.memory, offset_of(range.first).value, to});
      continue;
    }
    const std::uint64_t offset = bytes_of(range.first - state_start).value;
    const std::uint64_t length = std::min(to.size(), image_.spec.state.value - offset);
    std::ranges::fill(to.subspan(length), std::byte{0});
    reads.push_back({&image_.state, offset, to.first(length)});
  }
  return reads;
}

}  // namespace thaw
