#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace thaw {

/// Makes a store whose files are damaged one that opens, and keeps what can be read. Damaged tables
/// and what RocksDB cannot use go into the directory `lost` in it; of a damaged table the intact
/// blocks are kept. Entries may be older than those that were lost, or have been deleted; a check
/// of the store finds what does not fit. Ids are then given out from far beyond all that are known,
/// and the store's id goes: what was handed out under it may now mean something else.
///
/// Returns what was done, a line each; nothing when no file is damaged. kNotFound when there is no
/// store, kBusy when a process has it open, kPermission and the like.
Result<std::vector<std::string>> repair_files(const std::string& directory);

}  // namespace thaw
