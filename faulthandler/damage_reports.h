#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>

#include "base/error.h"
#include "faulthandler/origin.h"
#include "faulthandler/page_servers.h"
#include "faulthandler/uploader.h"
#include "format/chunk.h"

namespace thaw {

/// Brings to the page servers what came damaged from one of them, so that the one that owns the
/// store looks at its copy. All are told: which of them is that one, and whether it was the disk or
/// the way, they find out. A bounded number of chunks waits to be told, and one report is under
/// way at a time. Locks itself.
class DamageReports {
 public:
  /// `uploader` and `servers` must outlive it until the uploader has ended.
  DamageReports(PageServers& servers, Uploader& uploader)
      : servers_(servers), uploader_(uploader) {}
  DamageReports(const DamageReports&) = delete;
  DamageReports& operator=(const DamageReports&) = delete;

  void note(const Origin& origin, std::span<const ChunkId> chunks);

 private:
  using Chunks = std::map<Origin, std::set<ChunkId>>;

  void send();
  /// On the uploader's thread.
  void on_told(bool told);
  Result<void> tell();
  Result<void> tell(const Origin& origin, const std::set<ChunkId>& chunks);

  PageServers& servers_;
  Uploader& uploader_;
  std::mutex mutex_;
  Chunks chunks_;            // to be told; guarded by mutex_, as what follows
  std::size_t waiting_ = 0;  // of them
  bool under_way_ = false;
};

}  // namespace thaw
