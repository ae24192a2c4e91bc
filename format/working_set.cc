#include "format/working_set.h"

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "base/check.h"
#include "format/envelope.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr EnvelopeKind kWorkingSet{.magic = 0x31'53'57'54,  // "TWS1"
                                   .version = 1,
                                   .most_plain_bytes = limits::kMaxWorkingSetBytes,
                                   .name = "working set"};

Result<void> read_pages(VarintReader& reader, WorkingSet& set) {
  const std::uint64_t count = reader.next();
  if (count > limits::kMaxTouches) {
    return fail(ErrorCode::kTooLarge, "a working set of {} pages", count);
  }
  std::unordered_set<std::uint64_t> known;
  set.pages.reserve(count);
  std::uint64_t page = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    page += static_cast<std::uint64_t>(reader.next_signed());
    const std::uint64_t head = reader.next();
    const std::uint64_t us = reader.next();
    if (!reader.ok()) return fail(ErrorCode::kTruncated, "a working set ends in a page");
    const std::uint64_t seen = head >> 2;
    if (page >= limits::kMaxImagePages || (head & 3) > static_cast<unsigned>(TouchClass::kLate) ||
        seen > UINT8_MAX || us > UINT32_MAX || !known.insert(page).second) {
      return fail(ErrorCode::kMalformed, "page {} of a working set, seen {} times", page, seen);
    }
    set.pages.push_back({.page = {page},
                         .when = static_cast<TouchClass>(head & 3),
                         .seen = static_cast<std::uint8_t>(seen),
                         .median_us = static_cast<std::uint32_t>(us)});
  }
  return {};
}

Result<void> read_packs(VarintReader& reader, WorkingSet& set) {
  const std::uint64_t count = reader.next();
  if (count > set.pages.size()) {
    return fail(ErrorCode::kMalformed, "{} packs of {} pages", count, set.pages.size());
  }
  set.packs.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t pages = reader.next();
    const std::uint64_t bytes = reader.next();
    if (!reader.ok()) return fail(ErrorCode::kTruncated, "a working set ends in a pack");
    if (pages == 0 || pages > limits::kMaxPackPages || bytes > limits::kMaxPackBytes) {
      return fail(ErrorCode::kMalformed, "a pack of {} pages in {} bytes", pages, bytes);
    }
    set.packs.push_back({static_cast<std::uint16_t>(pages), static_cast<std::uint32_t>(bytes)});
  }
  return {};
}

}  // namespace

std::uint64_t WorkingSet::pack_bytes() const {
  std::uint64_t bytes = 0;
  for (const PackShape& pack : packs) bytes += pack.bytes;
  return bytes;
}

Bytes encode_working_set(const WorkingSet& set) {
  CHECK(set.pages.size() <= limits::kMaxTouches && set.packs.size() <= set.pages.size());
  Bytes plain;
  append_varint(plain, set.snapshot.value);
  append_varint(plain, set.generation);
  append_varint(plain, set.recordings);
  append_varint(plain, set.pages.size());
  std::uint64_t page = 0;
  for (const SetPage& next : set.pages) {
    append_signed_varint(plain, static_cast<std::int64_t>(next.page.value - page));
    append_varint(plain, std::uint64_t{next.seen} << 2 | static_cast<unsigned>(next.when));
    append_varint(plain, next.median_us);
    page = next.page.value;
  }
  append_varint(plain, set.packs.size());
  for (const PackShape& pack : set.packs) {
    append_varint(plain, pack.pages);
    append_varint(plain, pack.bytes);
  }
  return seal_envelope(kWorkingSet, plain);
}

Result<WorkingSet> decode_working_set(ByteSpan sealed) {
  const Bytes plain = TRY(open_envelope(kWorkingSet, sealed));
  VarintReader reader(plain);
  WorkingSet set;
  set.snapshot.value = reader.next();
  set.generation = reader.next();
  const std::uint64_t recordings = reader.next();
  if (recordings > limits::kMaxRecordings) {
    return fail(ErrorCode::kTooLarge, "a working set of {} recordings", recordings);
  }
  set.recordings = static_cast<std::uint8_t>(recordings);
  TRY(read_pages(reader, set));
  TRY(read_packs(reader, set));
  if (!reader.ok()) return fail(ErrorCode::kTruncated, "a working set without its packs");
  if (!reader.at_end()) return fail(ErrorCode::kMalformed, "bytes after the last pack");
  return set;
}

Result<std::vector<std::vector<PackPage>>> packed_pages(const WorkingSet& set, const PageMap& map,
                                                        PageCount memory) {
  std::vector<std::vector<PackPage>> packs;
  auto next = set.pages.begin();
  const auto take = [&]() -> Result<std::optional<PackPage>> {
    for (; next != set.pages.end(); ++next) {
      if (next->page.value >= memory.value) {
        return fail(ErrorCode::kMalformed, "page {} of a working set is no memory",
                    next->page.value);
      }
      const ChunkId chunk = map.chunk_of(next->page);
      if (chunk.valid()) return std::optional(PackPage{(next++)->page, chunk});
    }
    return std::optional<PackPage>();
  };
  for (const PackShape& shape : set.packs) {
    auto& pack = packs.emplace_back();
    for (std::size_t i = 0; i < shape.pages; ++i) {
      const auto page = TRY(take());
      if (!page) return fail(ErrorCode::kMalformed, "a working set with packs of other pages");
      pack.push_back(*page);
    }
    std::ranges::sort(pack, {}, &PackPage::page);
  }
  if (TRY(take())) return fail(ErrorCode::kMalformed, "a working set with pages in no pack");
  return packs;
}

}  // namespace thaw
