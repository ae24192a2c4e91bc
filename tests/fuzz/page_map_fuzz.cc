#include "format/page_map.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

/// The chunk of each page, read the plain way.
std::vector<ChunkId> expand(ByteSpan plain) {
  VarintReader reader(plain);
  reader.next();
  const std::uint64_t count = reader.next();
  std::vector<ChunkId> pages;
  std::uint64_t expected = 0;
  while (pages.size() < count) {
    const std::uint64_t head = reader.next();
    const bool zero = (head & 1) == 0;
    if (!zero) expected += static_cast<std::uint64_t>(reader.next_signed());
    for (std::uint64_t i = 0; i < head >> 1; ++i) {
      pages.push_back(zero ? kNoChunk : ChunkId{expected++});
    }
  }
  CHECK(reader.ok() && reader.at_end());
  return pages;
}

void check_find(const PageMap& map, const std::vector<ChunkId>& pages) {
  CHECK(map.size().value == pages.size());
  std::size_t runs = 0;
  for (PageMap::Cursor cursor(map); !cursor.at_end(); cursor.next(), ++runs) {
    const PageMap::Run run = cursor.run();
    CHECK(run.length.value > 0 && (run.zero() || run.chunk.valid()));
    for (PageIndex page = run.first; page < run.end(); page += PageCount{1}) {
      const PageMap::Run rest = map.find(page);
      CHECK(rest.chunk == pages[page.value] && rest.chunk == run.chunk_of(page));
      CHECK(rest.first == page && rest.end() == run.end());
    }
  }
  CHECK(runs == map.run_count());
}

void run(ByteSpan input) {
  constexpr PageCount kMost{limits::kSegmentPages};
  const Bytes sealed = fuzz::sealed_input(fuzz::kSegment, input);
  PageMap map;
  if (!map.append_segment(sealed, kMost)) {
    CHECK(map.size().value == 0 && map.run_count() == 0 && map.memory().value == 0);
    return;
  }
  CHECK(map.memory() == *PageMap().memory_with(sealed));
  const Bytes plain = *open_envelope(fuzz::kSegment, sealed);
  check_find(map, expand(plain));
  CHECK(*open_envelope(fuzz::kSegment, map.encode_segment(0)) == plain);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
