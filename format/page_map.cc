#include "format/page_map.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "format/envelope.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr EnvelopeKind kSegment{.magic = 0x31'4d'50'54,  // "TPM1"
                                .version = 1,
                                .most_plain_bytes = limits::kMaxSegmentBytes - 4096,
                                .name = "page map segment"};

/// Bytes between two runs from which on a segment can be read: to find a page is to read half of
/// them, and they cost a Skip.
constexpr std::size_t kSkipBytes = 64;

static_assert((std::size_t{1} << 22) * (1 + 10) / 4 * 5 < limits::kMaxMapBytes,
              "each page of 16 GiB in a run of its own, of any chunk, and a quarter for the skips");

constexpr std::size_t varint_bytes(std::uint64_t value) {
  return (static_cast<std::size_t>(std::bit_width(value | 1)) + 6) / 7;
}

/// Reads the varints of a segment that may be anything. After a failure all are 0.
class SegmentReader {
 public:
  explicit SegmentReader(ByteSpan bytes)
      : begin_(bytes.data()), at_(begin_), end_(begin_ + bytes.size()) {}

  std::uint64_t next() {
    if (at_ != end_ && std::to_integer<unsigned>(*at_) < 0x80) {
      return std::to_integer<std::uint64_t>(*at_++);
    }
    return next_long();
  }
  /// The zigzag form.
  std::uint64_t next_difference() {
    const std::uint64_t raw = next();
    return (raw >> 1) ^ (0 - (raw & 1));
  }
  std::size_t position() const { return static_cast<std::size_t>(at_ - begin_); }
  bool at_end() const { return at_ == end_; }
  bool ok() const { return ok_; }
  /// Whether each was as short as it can be.
  bool shortest() const { return shortest_; }

 private:
  std::uint64_t next_long() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; at_ != end_; shift += 7) {
      const auto byte = std::to_integer<std::uint64_t>(*at_++);
      if (shift == 63 && byte > 1) break;  // the tenth byte carries bit 63 alone
      value |= (byte & 0x7f) << shift;
      if (byte >= 0x80) continue;
      shortest_ = shortest_ && byte != 0;
      return value;
    }
    at_ = end_;
    ok_ = false;
    return 0;
  }

  const std::byte* begin_;
  const std::byte* at_;
  const std::byte* end_;
  bool ok_ = true;
  bool shortest_ = true;
};

/// Reads a varint that has been checked.
std::uint64_t take_varint(const std::byte*& at) {
  std::uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    const auto byte = std::to_integer<std::uint64_t>(*at++);
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

struct StoredRun {
  std::uint64_t length;
  std::uint64_t chunk;  // 0: it is zero

  std::uint64_t expected_next(std::uint64_t expected) const {
    return chunk == 0 ? expected : chunk + length;
  }
};

StoredRun take_run(const std::byte*& at, std::uint64_t expected) {
  const std::uint64_t head = take_varint(at);
  if ((head & 1) == 0) return {head >> 1, 0};
  const std::uint64_t raw = take_varint(at);
  return {head >> 1, expected + ((raw >> 1) ^ (0 - (raw & 1)))};
}

void put_run(Bytes& to, const PageMap::Run& run, std::uint64_t expected) {
  append_varint(to, run.length.value << 1 | (run.zero() ? 0 : 1));
  if (!run.zero()) append_signed_varint(to, static_cast<std::int64_t>(run.chunk.value - expected));
}

}  // namespace

void PageMap::Segment::note_run(std::size_t at, PageCount page, std::uint64_t expected) {
  if (at - (skips.empty() ? 0 : skips.back().at) < kSkipBytes) return;
  skips.push_back(
      {static_cast<std::uint32_t>(page.value), static_cast<std::uint32_t>(at), expected});
}

void PageMap::Segment::close() {
  runs.shrink_to_fit();
  skips.shrink_to_fit();
}

bool PageMap::Last::goes_on_with(ChunkId chunk) const {
  if (run.length.value == 0) return false;
  if (run.zero() || chunk == kNoChunk) return run.chunk == chunk;
  return run.chunk.value + run.length.value == chunk.value;
}

PageMap::Cursor::Cursor(const PageMap& map, PageIndex page)
    : map_(map), page_(page), run_{page, {}, kNoChunk} {
  CHECK(page.value <= map.size_.value);
  if (at_end()) return;
  const std::size_t index = page.value / limits::kSegmentPages;
  const Segment& segment = map.segments_[index];
  const std::uint64_t start = index * limits::kSegmentPages;
  const auto skip =
      std::upper_bound(segment.skips.begin(), segment.skips.end(), page.value - start,
                       [](std::uint64_t wanted, const Skip& each) { return wanted < each.page; });
  enter(segment);
  std::uint64_t first = start;
  if (skip != segment.skips.begin()) {
    const Skip& from = *std::prev(skip);
    behind_ += from.at;
    expected_ = from.expected;
    first = start + from.page;
  }
  // In variables of its own, which the compiler keeps in registers.
  const std::byte* at = behind_;
  std::uint64_t expected = expected_;
  StoredRun run = take_run(at, expected);
  for (; first + run.length <= page.value; run = take_run(at, expected)) {
    first += run.length;
    expected = run.expected_next(expected);
  }
  run_ = {{first}, {run.length}, {run.chunk}};
  behind_ = at;
  expected_ = run.expected_next(expected);
}

void PageMap::Cursor::enter(const Segment& segment) {
  behind_ = segment.runs.data();
  expected_ = 0;
}

void PageMap::Cursor::read_run() {
  const StoredRun run = take_run(behind_, expected_);
  expected_ = run.expected_next(expected_);
  run_ = {page_, {run.length}, {run.chunk}};
}

void PageMap::Cursor::skip(PageCount count) {
  CHECK(count <= run_.end() - page_);
  page_ += count;
  if (page_ != run_.end() || at_end()) return;
  if (page_.value % limits::kSegmentPages == 0) {
    enter(map_.segments_[page_.value / limits::kSegmentPages]);
  }
  read_run();
}

ByteCount PageMap::memory_of(std::size_t plain_bytes) {
  constexpr std::size_t kBlockBytes = 16;  // what a block of memory takes beside its content
  return {sizeof(Segment) + 2 * kBlockBytes + plain_bytes +
          plain_bytes * sizeof(Skip) / kSkipBytes};
}

PageRange PageMap::pages_of(std::size_t index) const {
  const PageIndex first{index * limits::kSegmentPages};
  return {first, std::min(PageCount{limits::kSegmentPages}, PageIndex{size_.value} - first)};
}

ByteCount PageMap::memory() const {
  ByteCount all{0};
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const PageRange pages = pages_of(i);
    all += memory_of(varint_bytes(pages.first.value) + varint_bytes(pages.count.value) +
                     segments_[i].runs.size());
  }
  return all;
}

void PageMap::append_chunks(ChunkId first, PageCount count) {
  CHECK(count.value == 0 || first.valid());
  append(first, count);
}

void PageMap::append(ChunkId first, PageCount count) {
  while (count.value > 0) {
    const PageCount room{limits::kSegmentPages - size_.value % limits::kSegmentPages};
    const PageCount now = std::min(count, room);
    append_run(first, now);
    if (now == room) segments_.back().close();
    if (first != kNoChunk) first.value += now.value;
    count = count - now;
  }
}

void PageMap::append_run(ChunkId first, PageCount count) {
  const PageCount page{size_.value % limits::kSegmentPages};
  if (page.value == 0) {
    segments_.emplace_back();
    last_ = {};
  }
  Segment& segment = segments_.back();
  if (last_.goes_on_with(first)) {
    segment.runs.resize(last_.at);
    last_.run.length += count;
  } else {
    last_ = {{PageIndex{size_.value}, count, first}, segment.runs.size(), last_.expected_next()};
    segment.note_run(last_.at, page, last_.expected);
    ++run_count_;
  }
  put_run(segment.runs, last_.run, last_.expected);
  size_ += count;
}

Bytes PageMap::encode_segment(std::size_t index) const {
  CHECK(index < segments_.size());
  const Bytes& runs = segments_[index].runs;
  const PageRange pages = pages_of(index);
  Bytes plain;
  plain.reserve(varint_bytes(pages.first.value) + varint_bytes(pages.count.value) + runs.size());
  append_varint(plain, pages.first.value);
  append_varint(plain, pages.count.value);
  plain.insert(plain.end(), runs.begin(), runs.end());
  return seal_envelope(kSegment, plain);
}

Result<ByteCount> PageMap::memory_with(ByteSpan sealed) const {
  return memory() + memory_of(TRY(plain_bytes(kSegment, sealed)));
}

Result<void> PageMap::append_segment(ByteSpan sealed, PageCount most) {
  if (TRY(memory_with(sealed)).value > limits::kMaxMapBytes) {
    return fail(ErrorCode::kTooLarge, "a page map of more than {} MiB", limits::kMaxMapBytes >> 20);
  }
  if (size_.value % limits::kSegmentPages != 0) {
    return fail(ErrorCode::kMalformed, "a page map segment behind a short one");
  }
  Bytes plain = TRY(open_envelope(kSegment, sealed));
  SegmentReader reader(plain);
  const std::uint64_t first = reader.next();
  const std::uint64_t count = reader.next();
  if (!reader.ok()) return fail(ErrorCode::kTruncated, "page map segment without a header");
  if (first != size_.value || count == 0 || count > limits::kSegmentPages || count > most.value) {
    return fail(ErrorCode::kMalformed, "page map segment of {} pages from page {}, wanted page {}",
                count, first, size_.value);
  }
  const std::size_t header = reader.position();
  Segment segment;
  Last last;
  std::size_t runs = 0;
  for (std::uint64_t page = 0; page < count; ++runs) {
    last.expected = last.expected_next();
    last.at = reader.position() - header;
    segment.note_run(last.at, {page}, last.expected);
    const std::uint64_t head = reader.next();
    const PageCount length{head >> 1};
    const bool zero = (head & 1) == 0;
    const ChunkId chunk{zero ? 0 : last.expected + reader.next_difference()};
    if (!reader.ok()) return fail(ErrorCode::kTruncated, "page map segment ends in a run");
    const bool fits = length.value != 0 && length.value <= count - page;
    if (!fits || (!zero && (!chunk.valid() ||
                            length.value > ChunkId::kMaxSequence - chunk.sequence() + 1))) {
      return fail(ErrorCode::kMalformed, "page map run of {} pages at chunk {:#x}", length.value,
                  chunk.value);
    }
    if (last.goes_on_with(chunk)) {
      return fail(ErrorCode::kMalformed, "two page map runs that are one");
    }
    last.run = {PageIndex{first + page}, length, chunk};
    page += length.value;
  }
  if (!reader.at_end()) return fail(ErrorCode::kMalformed, "bytes after the last run");
  if (!reader.shortest()) return fail(ErrorCode::kMalformed, "numbers longer than they need be");
  plain.erase(plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(header));
  segment.runs = std::move(plain);
  segment.skips.shrink_to_fit();
  segments_.push_back(std::move(segment));
  last_ = last;
  size_ += PageCount{count};
  run_count_ += runs;
  return {};
}

}  // namespace thaw
