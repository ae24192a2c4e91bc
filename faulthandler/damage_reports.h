#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "base/error.h"
#include "faulthandler/damage.h"
#include "faulthandler/origin.h"
#include "faulthandler/page_servers.h"
#include "faulthandler/uploader.h"

namespace thaw {

/// Brings to the page servers what came damaged from one of them, so that the one that owns the
/// store looks at its copy. All are told: which of them is that one, and whether it was the disk or
/// the way, they find out. A bounded number of chunks and packs waits to be told, and one report is
/// under way at a time. Locks itself.
class DamageReports {
 public:
  /// `uploader` and `servers` must outlive it until the uploader has ended.
  DamageReports(PageServers& servers, Uploader& uploader)
      : servers_(servers), uploader_(uploader) {}
  DamageReports(const DamageReports&) = delete;
  DamageReports& operator=(const DamageReports&) = delete;

  void note(const Origin& origin, const Damage& damage);
  /// How many chunks and packs have come damaged.
  std::uint64_t noted() const;

 private:
  struct Pieces {
    std::set<ChunkId> chunks;
    std::set<PackId> packs;
    std::size_t size() const { return chunks.size() + packs.size(); }
  };

  void send();
  /// Gives up what waits to be told.
  void forget();
  /// On the uploader's thread.
  void on_told(bool told);
  Result<void> tell();
  Result<void> tell(const Origin& origin, const Pieces& pieces);

  PageServers& servers_;
  Uploader& uploader_;
  mutable std::mutex mutex_;
  std::map<Origin, Pieces> waiting_;  // to be told; guarded by mutex_, as what follows
  std::size_t count_ = 0;             // of them
  bool under_way_ = false;
  std::uint64_t noted_ = 0;
};

}  // namespace thaw
