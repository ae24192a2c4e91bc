#include "format/page_map.h"

#include <algorithm>

#include "base/check.h"
#include "format/envelope.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr EnvelopeKind kSegment{.magic = 0x31'4d'50'54,  // "TPM1"
                                .version = 1,
                                .most_plain_bytes = limits::kMaxSegmentBytes - 4096,
                                .name = "page map segment"};

}  // namespace

PageMap::Run PageMap::run(std::size_t i) const {
  CHECK(i < starts_.size());
  const PageIndex end = i + 1 < starts_.size() ? starts_[i + 1].first : PageIndex{size_.value};
  return {starts_[i].first, end - starts_[i].first, starts_[i].chunk};
}

PageMap::Run PageMap::whole_run(PageIndex page) const {
  CHECK(page.value < size_.value);
  const auto after =
      std::upper_bound(starts_.begin(), starts_.end(), page,
                       [](PageIndex index, const Start& start) { return index < start.first; });
  return run(static_cast<std::size_t>(after - starts_.begin()) - 1);
}

PageMap::Run PageMap::find(PageIndex page) const {
  const Run whole = whole_run(page);
  const PageCount skipped = page - whole.first;
  const ChunkId chunk = whole.zero() ? kNoChunk : ChunkId{whole.chunk.value + skipped.value};
  return {page, whole.length - skipped, chunk};
}

void PageMap::append_zero(PageCount count) {
  if (count.value == 0) return;
  if (starts_.empty() || starts_.back().chunk != kNoChunk) {
    starts_.push_back({PageIndex{size_.value}, kNoChunk});
  }
  size_ += count;
}

void PageMap::append_chunks(ChunkId first, PageCount count) {
  if (count.value == 0) return;
  CHECK(first.valid());
  bool continues = false;
  if (!starts_.empty() && starts_.back().chunk != kNoChunk) {
    const Start& last = starts_.back();
    continues = last.chunk.value + (size_.value - last.first.value) == first.value;
  }
  if (!continues) starts_.push_back({PageIndex{size_.value}, first});
  size_ += count;
}

std::size_t PageMap::segment_count() const {
  return (size_.value + limits::kSegmentPages - 1) / limits::kSegmentPages;
}

Bytes PageMap::encode_segment(std::size_t index) const {
  CHECK(index < segment_count());
  PageIndex page{index * limits::kSegmentPages};
  const PageIndex end{std::min(page.value + limits::kSegmentPages, size_.value)};
  Bytes plain;
  append_varint(plain, page.value);
  append_varint(plain, (end - page).value);
  std::uint64_t expected = 0;  // the id that would follow the last one written
  while (page < end) {
    const Run rest = find(page);
    const PageCount length = std::min(rest.length, end - page);
    append_varint(plain, length.value << 1 | (rest.zero() ? 0 : 1));
    if (!rest.zero()) {
      append_signed_varint(plain, static_cast<std::int64_t>(rest.chunk.value - expected));
      expected = rest.chunk.value + length.value;
    }
    page += length;
  }
  return seal_envelope(kSegment, plain);
}

Result<void> PageMap::append_segment(ByteSpan sealed, PageCount most) {
  CHECK(size_.value % limits::kSegmentPages == 0);
  const Bytes plain = TRY(open_envelope(kSegment, sealed));
  VarintReader reader(plain);
  const std::uint64_t first = reader.next();
  const std::uint64_t count = reader.next();
  if (!reader.ok()) return fail(ErrorCode::kTruncated, "page map segment without a header");
  if (first != size_.value || count == 0 || count > limits::kSegmentPages || count > most.value) {
    return fail(ErrorCode::kMalformed, "page map segment of {} pages from page {}, wanted page {}",
                count, first, size_.value);
  }
  PageMap segment;
  std::uint64_t expected = 0;
  while (segment.size_.value < count) {
    const std::uint64_t head = reader.next();
    const PageCount length{head >> 1};
    const bool zero = (head & 1) == 0;
    const auto delta = zero ? 0 : static_cast<std::uint64_t>(reader.next_signed());
    if (!reader.ok()) return fail(ErrorCode::kTruncated, "page map segment ends in a run");
    const ChunkId chunk{expected + delta};
    const bool fits = length.value != 0 && length.value <= count - segment.size_.value;
    if (!fits || (!zero && (!chunk.valid() ||
                            length.value > ChunkId::kMaxSequence - chunk.sequence() + 1))) {
      return fail(ErrorCode::kMalformed, "page map run of {} pages at chunk {:#x}", length.value,
                  chunk.value);
    }
    if (zero) {
      segment.append_zero(length);
    } else {
      segment.append_chunks(chunk, length);
      expected = chunk.value + length.value;
    }
  }
  if (!reader.at_end()) return fail(ErrorCode::kMalformed, "bytes after the last run");
  if (run_count() + segment.run_count() > limits::kMaxRuns) {
    return fail(ErrorCode::kTooLarge, "a page map of more than {} runs", limits::kMaxRuns);
  }
  for (std::size_t i = 0; i < segment.run_count(); ++i) {
    const Run next = segment.run(i);
    next.zero() ? append_zero(next.length) : append_chunks(next.chunk, next.length);
  }
  return {};
}

}  // namespace thaw
