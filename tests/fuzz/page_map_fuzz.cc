#include "format/page_map.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

void expect_same(const PageMap& a, const PageMap& b) {
  CHECK(a.size() == b.size() && a.run_count() == b.run_count());
  for (std::size_t i = 0; i < a.run_count(); ++i) {
    const PageMap::Run run = a.run(i);
    CHECK(run.first == b.run(i).first && run.chunk == b.run(i).chunk);
    CHECK(run.zero() || run.chunk.valid());
    CHECK(a.chunk_of(run.first) == run.chunk);
  }
}

void run(ByteSpan input) {
  constexpr PageCount kMost{limits::kSegmentPages};
  PageMap map;
  if (!map.append_segment(fuzz::sealed_input(fuzz::kSegment, input), kMost)) {
    CHECK(map.size().value == 0 && map.run_count() == 0);
    return;
  }
  CHECK(map.size().value > 0 && map.size() <= kMost);
  const Bytes segment = map.encode_segment(0);
  PageMap back;
  CHECK(back.append_segment(segment, kMost));
  expect_same(map, back);
  CHECK(back.encode_segment(0) == segment);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
