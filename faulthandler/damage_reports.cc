#include "faulthandler/damage_reports.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "faulthandler/limits.h"

namespace thaw {

void DamageReports::note(const Origin& origin, std::span<const ChunkId> chunks) {
  {
    const std::lock_guard lock(mutex_);
    for (const ChunkId chunk : chunks) {
      if (waiting_ >= limits::kMaxDamageReports) break;
      if (chunks_[origin].insert(chunk).second) ++waiting_;
    }
    if (std::exchange(under_way_, true)) return;
  }
  send();
}

void DamageReports::send() {
  uploader_.add({.what = "the report of damaged chunks",
                 .attempt = [this] { return tell(); },
                 .done = [this](bool told) { on_told(told); }});
}

void DamageReports::on_told(bool told) {
  {
    const std::lock_guard lock(mutex_);
    if (!told) {
      chunks_.clear();  // who meets them again reports them again
      waiting_ = 0;
    }
    under_way_ = !chunks_.empty();
    if (!under_way_) return;
  }
  send();
}

Result<void> DamageReports::tell() {
  Chunks due;
  {
    const std::lock_guard lock(mutex_);
    due = chunks_;
  }
  for (const auto& [origin, chunks] : due) {
    TRY(tell(origin, chunks));
    const std::lock_guard lock(mutex_);
    for (const ChunkId chunk : chunks) waiting_ -= chunks_[origin].erase(chunk);
    if (chunks_[origin].empty()) chunks_.erase(origin);
  }
  return {};
}

Result<void> DamageReports::tell(const Origin& origin, const std::set<ChunkId>& chunks) {
  const std::vector<ChunkId> all(chunks.begin(), chunks.end());
  return servers_.tell_all(origin, [&](PageClient& client) -> Result<void> {
    for (std::size_t i = 0; i < all.size(); i += limits::kMaxChunksPerRequest) {
      const std::size_t count = std::min(all.size() - i, limits::kMaxChunksPerRequest);
      const auto part = std::span(all).subspan(i, count);
      TRY(client.report_damage({.chunks = {part.begin(), part.end()}, .snapshot = {}}));
    }
    return {};
  });
}

}  // namespace thaw
