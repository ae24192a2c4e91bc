#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace rocksdb {
class Status;
}  // namespace rocksdb

namespace thaw {

struct DamagedFile {
  std::string path;
  std::string why;
  /// Name and reason, a line.
  std::string text() const;
};

/// How much of a table is read: what is needed to open it, or all of its blocks.
enum class Reading { kEnds, kAll };

/// Which of these tables are damaged, by their checksums.
std::vector<DamagedFile> damaged_tables(std::span<const std::string> paths, Reading reading);
/// Which of the files of a store that does not open are damaged: CURRENT, manifest and tables.
std::vector<DamagedFile> damaged_files(const std::string& directory, Reading reading);
/// The paths of all tables in the directory, those that no manifest has included.
std::vector<std::string> tables_in(const std::string& directory);

/// kCorrupt when RocksDB would put an empty store in the place of this one, since its manifest has
/// lost its end. REQUIRES: has_store_files().
Result<void> check_manifest(const std::string& directory);

/// Whether a store is or was in the directory, even if RocksDB would not find it any more. A
/// manifest alone is none: it is left where the making of a store was interrupted.
Result<bool> has_store_files(const std::string& directory);

/// Why a store did not open, from the status and this thread's last file error: kBusy, kPermission,
/// kReadOnly, kNoSpace, kNoMemory, kNoDescriptors; kCorrupt with the damaged files.
std::unexpected<Error> open_failure(const rocksdb::Status& status, const std::string& directory);

}  // namespace thaw
