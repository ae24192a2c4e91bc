#pragma once

#include <functional>
#include <memory>
#include <string>

#include "pageserver/store.h"
#include "pageserver/store_id.h"
#include "pageserver/sys/store_limits.h"

namespace thaw {

/// The store on RocksDB, in a directory of its own. FORMAT.md has the keys of each column family.
/// Threads as Store says. Another process that has the directory open makes open() fail (kBusy); a
/// store of a newer version is refused (kBadVersion). New content is refused with kNoSpace when it
/// would leave less than the limits say on the file system, which RocksDB needs for its own upkeep;
/// deleting is always allowed. Failures as RocksDatabase::open().
Result<std::unique_ptr<Store>> open_rocks_store(const std::string& directory,
                                                const StoreLimits& limits);

/// The same store as another process sees that does not write to it, beside the one that does, or
/// without it. It follows that one on a thread of its own, a moment behind; where it cannot, it is
/// as it was, and the log says so. What would write is kUnsupported. kNotFound when there is none,
/// kBadVersion when it is of another version.
///
/// RocksDB would follow into whatever store comes to be in the directory, where the ids of this one
/// may stand for other pages. So the follower looks whether it is the same before and after each
/// step, and whether its version is. If not, it follows no more and calls `end` with the reason.
Result<std::unique_ptr<Store>> open_rocks_replica(const StoreWatch& watch,
                                                  const StoreLimits& limits,
                                                  std::function<void(const Error&)> end);

/// The same for a look at a store that no process has open. Nothing of it is changed.
Result<std::unique_ptr<Store>> open_rocks_reader(const std::string& directory,
                                                 const StoreLimits& limits);

}  // namespace thaw
