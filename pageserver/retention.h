#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "format/manifest.h"
#include "format/wire.h"

namespace thaw {

/// Those snapshots that a namespace's settings do not keep, oldest first. `tagged` has the names of
/// snapshots that have a tag.
std::vector<const Manifest*> outdated(const std::vector<Manifest>& snapshots,
                                      const std::set<std::string>& tagged,
                                      const message::NamespaceSettings& settings,
                                      std::uint64_t now_unix_ms);

}  // namespace thaw
