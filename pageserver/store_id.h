#pragma once

#include <string>

#include "base/error.h"
#include "format/store_id.h"

namespace thaw {

/// The file beside RocksDB's in which a store's id stands.
inline constexpr const char* kStoreIdFile = "STORE_ID";

/// The id of the store in `directory`, drawn and made durable if it has none yet. A backup has
/// RocksDB's files alone and therefore no id: what it hands out once it is served is its own, and
/// may differ from what the store it was made of has handed out since under the same numbers.
/// kCorrupt when the file says something else. REQUIRES: this process has the store open.
Result<StoreId> open_store_id(const std::string& directory);
/// Of a store that somebody else owns; kNotFound when it has none, as a backup has not.
Result<StoreId> read_store_id(const std::string& directory);

}  // namespace thaw
