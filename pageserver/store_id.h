#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "base/file_identity.h"
#include "format/store_id.h"

namespace thaw {

/// The file beside RocksDB's in which a store's id stands.
inline constexpr const char* kStoreIdFile = "STORE_ID";

/// The id of the store in `directory`, drawn and made durable if it has none yet. A backup has
/// RocksDB's files alone and therefore no id: what it hands out once it is served is its own, and
/// may differ from what the store it was made of has handed out since under the same numbers.
/// kCorrupt when the file says something else. REQUIRES: this process has the store open.
Result<StoreId> open_store_id(const std::string& directory);
/// Whether something is there under the name of its id, damaged or not.
bool has_store_id(const std::string& directory);
/// Why the id of the store is none; nothing when it is one, there is none yet, or it cannot be read
/// for a reason that may pass.
std::optional<std::string> store_id_damage(const std::string& directory);
/// Of a store that somebody else owns; kNotFound when it has none, as a backup has not.
Result<StoreId> read_store_id(const std::string& directory);

/// Tells whether a directory still has the store of another process that it had. A copy of that
/// store is another one: both may have given the same ids out. Does not change.
class StoreWatch {
 public:
  /// kNotFound as read_store_id().
  static Result<StoreWatch> begin(std::string directory);

  const std::string& directory() const { return directory_; }
  const StoreId& id() const { return id_; }
  /// kWrongStore when it has another store, or none that this process may read. Other failures may
  /// pass.
  Result<void> look() const;

 private:
  StoreWatch() = default;

  std::string directory_;
  StoreId id_;
  FileIdentity file_{};  // of the id
};

}  // namespace thaw
