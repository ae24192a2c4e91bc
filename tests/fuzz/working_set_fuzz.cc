#include <set>

#include "format/working_set.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

/// Pages 0 to 2 are zero, 3 to 63 are not.
PageMap some_map() {
  PageMap map;
  map.append_zero({3});
  map.append_chunks(ChunkId::of(1, 0, 1), {61});
  return map;
}

void check_packs(const WorkingSet& set) {
  const PageMap map = some_map();
  const auto packs = packed_pages(set, map, map.size());
  if (!packs) return;
  CHECK(packs->size() == set.packs.size());
  std::set<PageIndex> packed;
  for (std::size_t i = 0; i < packs->size(); ++i) {
    CHECK((*packs)[i].size() == set.packs[i].pages);
    PageIndex next{0};
    for (const PackPage& page : (*packs)[i]) {
      CHECK(page.page >= next && page.chunk == map.chunk_of(page.page) && page.chunk.valid());
      CHECK(packed.insert(page.page).second);
      next = page.page + PageCount{1};
    }
  }
  for (const SetPage& page : set.pages) {
    CHECK(page.page.value < map.size().value);
    CHECK(packed.contains(page.page) == map.chunk_of(page.page).valid());
  }
}

void run(ByteSpan input) {
  const auto set = decode_working_set(fuzz::sealed_input(fuzz::kWorkingSet, input));
  if (!set) return;
  CHECK(set->recordings <= limits::kMaxRecordings);
  CHECK(set->pages.size() <= limits::kMaxTouches && set->packs.size() <= set->pages.size());
  const auto back = decode_working_set(encode_working_set(*set));
  CHECK(back);
  CHECK(*back == *set);
  check_packs(*set);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
