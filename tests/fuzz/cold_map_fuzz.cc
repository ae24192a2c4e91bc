#include "format/cold_map.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

constexpr PageCount kMemory{1u << 20};

void run(ByteSpan input) {
  const auto map = decode_cold_map(fuzz::sealed_input(fuzz::kColdMap, input), kMemory);
  if (!map) return;
  CHECK(map->size() <= limits::kMaxColdRanges);
  std::uint64_t next = 0;
  for (const PageRange& range : *map) {
    CHECK(range.count.value > 0 && range.first.value >= next);
    next = (range.first + range.count).value + 1;
  }
  CHECK(map->empty() || next <= kMemory.value + 1);
  const auto back = decode_cold_map(encode_cold_map(*map), kMemory);
  CHECK(back);
  CHECK(*back == *map);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
