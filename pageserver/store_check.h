#pragma once

#include <string>
#include <vector>

#include "pageserver/store.h"

namespace thaw {

struct StoreCheck {
  std::uint64_t snapshots = 0;
  std::uint64_t chunks = 0;
  std::uint64_t bytes = 0;            // of chunks
  std::vector<std::string> problems;  // a line each
};

/// Checks a whole store that nobody else has open: its files, everything that each namespace has as
/// Verification says, whether the names lead somewhere, and whether the totals are right. With
/// `repair` damaged chunks are put into quarantine, lost hashes found again and totals corrected.
Result<StoreCheck> check_store(Store& store, bool repair);

}  // namespace thaw
