#include "faulthandler/chunk_places.h"

#include <algorithm>

#include "format/limits.h"

namespace thaw {

namespace {

/// Pages whose chunks the map is asked for when one is looked for: the logarithm of it at most.
constexpr std::size_t kGroup = 4;

static_assert(limits::kMaxImagePages <= UINT32_MAX);

}  // namespace

ChunkPlaces::ChunkPlaces(std::shared_ptr<const PageMap> map, PageCount end)
    : map_(std::move(map)), end_(end) {
  std::vector<Run> all;
  all.reserve(map_->run_count());
  for (PageMap::Cursor cursor(*map_); !cursor.at_end(); cursor.next()) {
    const PageMap::Run run = cursor.run();
    if (run.first.value >= end.value) break;
    if (run.zero()) continue;
    all.push_back(
        {run.chunk, static_cast<std::uint32_t>(run.first.value),
         static_cast<std::uint32_t>(std::min(run.length.value, end.value - run.first.value))});
  }
  std::ranges::sort(all, {}, &Run::chunk);
  pages_.reserve(all.size());
  std::uint64_t known = 0;  // chunks below it have their place
  for (const Run& run : all) {
    const std::uint64_t behind = run.chunk.value + run.length;
    if (behind <= known) continue;
    const std::uint64_t first = std::max(known, run.chunk.value);
    if (pages_.size() % kGroup == 0) groups_.push_back({first});
    pages_.push_back(run.first + static_cast<std::uint32_t>(first - run.chunk.value));
    known = behind;
  }
  pages_.shrink_to_fit();
  groups_.shrink_to_fit();
}

std::optional<PageIndex> ChunkPlaces::find(ChunkId chunk) const {
  const auto group = std::ranges::upper_bound(groups_, chunk);
  if (group == groups_.begin()) return std::nullopt;
  const auto number = static_cast<std::size_t>(group - groups_.begin()) - 1;
  const auto pages = std::span(pages_).subspan(number * kGroup);
  const auto behind =
      std::ranges::upper_bound(pages.first(std::min(kGroup, pages.size())), chunk, {},
                               [this](std::uint32_t page) { return map_->chunk_of({page}); });
  const PageMap::Run run = map_->find({*std::prev(behind)});
  const PageCount place{chunk.value - run.chunk.value};
  if (place >= run.length || (run.first + place).value >= end_.value) return std::nullopt;
  return run.first + place;
}

ByteCount ChunkPlaces::memory() const {
  return {pages_.size() * sizeof(std::uint32_t) + groups_.size() * sizeof(ChunkId)};
}

ByteCount ChunkPlaces::memory_to_make(const PageMap& map) {
  return {map.run_count() * (sizeof(Run) + sizeof(std::uint32_t) + sizeof(ChunkId))};
}

}  // namespace thaw
