#include "faulthandler/damage_reports.h"

#include <utility>

#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

std::uint64_t DamageReports::noted() const {
  const std::lock_guard lock(mutex_);
  return noted_;
}

void DamageReports::note(const Origin& origin, const Damage& damage) {
  {
    const std::lock_guard lock(mutex_);
    noted_ += damage.chunks.size() + damage.packs.size();
    Pieces& pieces = waiting_[origin];
    const std::size_t before = pieces.size();
    const auto has_room = [&] {
      return count_ + pieces.size() - before < limits::kMaxDamageReports;
    };
    for (const ChunkId chunk : damage.chunks) {
      if (has_room()) pieces.chunks.insert(chunk);
    }
    for (const PackId& pack : damage.packs) {
      if (has_room()) pieces.packs.insert(pack);
    }
    count_ += pieces.size() - before;
    if (std::exchange(under_way_, true)) return;
  }
  send();
}

void DamageReports::send() {
  const auto added = uploader_.add({.what = "the report of what came damaged",
                                    .attempt = [this] { return tell(); },
                                    .done = [this](bool told) { on_told(told); }});
  if (added) return;
  log_warning("{}", added.error().message());
  forget();
}

void DamageReports::forget() {
  const std::lock_guard lock(mutex_);
  waiting_.clear();  // a session that meets them again reports them again
  count_ = 0;
  under_way_ = false;
}

void DamageReports::on_told(bool told) {
  if (!told) return forget();
  {
    const std::lock_guard lock(mutex_);
    under_way_ = !waiting_.empty();
    if (!under_way_) return;
  }
  send();
}

Result<void> DamageReports::tell() {
  std::map<Origin, Pieces> due;
  {
    const std::lock_guard lock(mutex_);
    due = waiting_;
  }
  for (const auto& [origin, told] : due) {
    TRY(tell(origin, told));
    const std::lock_guard lock(mutex_);
    Pieces& pieces = waiting_[origin];
    for (const ChunkId chunk : told.chunks) count_ -= pieces.chunks.erase(chunk);
    for (const PackId& pack : told.packs) count_ -= pieces.packs.erase(pack);
    if (pieces.size() == 0) waiting_.erase(origin);
  }
  return {};
}

Result<void> DamageReports::tell(const Origin& origin, const Pieces& pieces) {
  return servers_.tell_all(origin, [&](PageClient& client) -> Result<void> {
    auto chunk = pieces.chunks.begin();
    auto pack = pieces.packs.begin();
    while (chunk != pieces.chunks.end() || pack != pieces.packs.end()) {
      message::ReportDamage report;
      while (chunk != pieces.chunks.end() && report.chunks.size() < limits::kMaxChunksPerRequest) {
        report.chunks.push_back(*chunk++);
      }
      while (pack != pieces.packs.end() && report.packs.size() < limits::kMaxPacksPerReport) {
        report.packs.push_back(*pack++);
      }
      TRY(client.report_damage(report));
    }
    return {};
  });
}

}  // namespace thaw
