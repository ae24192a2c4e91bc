#include "format/cold_map.h"

#include <algorithm>

#include "base/check.h"
#include "format/envelope.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr EnvelopeKind kColdMap{.magic = 0x31'4d'43'54,  // "TCM1"
                                .version = 1,
                                .most_plain_bytes = limits::kMaxColdMapBytes,
                                .name = "cold map"};

}  // namespace

void limit_cold_map(ColdMap& map) {
  if (map.size() <= limits::kMaxColdRanges) return;
  std::ranges::nth_element(map, map.begin() + limits::kMaxColdRanges, std::ranges::greater(),
                           [](PageRange range) { return range.count; });
  map.resize(limits::kMaxColdRanges);
  std::ranges::sort(map, {}, &PageRange::first);
}

Bytes encode_cold_map(const ColdMap& map) {
  CHECK(map.size() <= limits::kMaxColdRanges);
  Bytes plain;
  append_varint(plain, map.size());
  PageIndex end;
  for (const PageRange& range : map) {
    append_varint(plain, (range.first - end).value);
    append_varint(plain, range.count.value);
    end = range.first + range.count;
  }
  return seal_envelope(kColdMap, plain);
}

Result<ColdMap> decode_cold_map(ByteSpan sealed, PageCount memory) {
  const Bytes plain = TRY(open_envelope(kColdMap, sealed));
  VarintReader reader(plain);
  const std::uint64_t count = reader.next();
  if (count > limits::kMaxColdRanges) {
    return fail(ErrorCode::kTooLarge, "a cold map of {} ranges", count);
  }
  ColdMap map;
  map.reserve(count);
  PageIndex end;
  for (std::uint64_t i = 0; i < count; ++i) {
    const PageCount gap{reader.next()};
    const PageCount length{reader.next()};
    if (!reader.ok()) return fail(ErrorCode::kTruncated, "a cold map ends in a range");
    const PageCount left = memory - PageCount{end.value};
    if ((gap.value == 0 && i > 0) || length.value == 0 ||
        !within(gap.value, length.value, left.value)) {
      return fail(ErrorCode::kMalformed, "{} cold pages {} behind page {} of {}", length.value,
                  gap.value, end.value, memory.value);
    }
    map.push_back({end + gap, length});
    end = map.back().first + length;
  }
  if (!reader.ok()) return fail(ErrorCode::kTruncated, "a cold map without ranges");
  if (!reader.at_end()) return fail(ErrorCode::kMalformed, "bytes after the last cold range");
  return map;
}

}  // namespace thaw
