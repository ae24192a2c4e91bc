#include "faulthandler/chunk_places.h"

#include <algorithm>

namespace thaw {

ChunkPlaces::ChunkPlaces(const PageMap& map, PageCount end) {
  std::vector<Run> all;
  for (std::size_t i = 0; i < map.run_count(); ++i) {
    const PageMap::Run run = map.run(i);
    if (run.first.value >= end.value) break;
    if (run.zero()) continue;
    all.push_back(
        {run.chunk, {std::min(run.length.value, end.value - run.first.value)}, run.first});
  }
  std::ranges::sort(all, {}, &Run::chunk);
  std::uint64_t known = 0;  // chunks below it have their place
  for (const Run& run : all) {
    const std::uint64_t behind = run.chunk.value + run.length.value;
    if (behind <= known) continue;
    const PageCount skipped{known > run.chunk.value ? known - run.chunk.value : 0};
    runs_.push_back({{run.chunk.value + skipped.value}, run.length - skipped, run.first + skipped});
    known = behind;
  }
}

std::optional<PageIndex> ChunkPlaces::find(ChunkId chunk) const {
  const auto behind = std::ranges::upper_bound(runs_, chunk, {}, &Run::chunk);
  if (behind == runs_.begin()) return std::nullopt;
  const Run& run = *std::prev(behind);
  const PageCount place{chunk.value - run.chunk.value};
  if (place >= run.length) return std::nullopt;
  return run.first + place;
}

}  // namespace thaw
