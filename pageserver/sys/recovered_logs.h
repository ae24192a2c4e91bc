#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// What a batch ends with that was synced, in the log alone, and what stands behind it once it was:
/// all before it was on the disk then.
inline constexpr std::string_view kSyncedMark = "thaw: synced\x1e\x9d\x53\xc7";

/// The logs that a store is recovered from, as they are opened one after the other. A log that ends
/// in the midst of a record is the normal end after a crash: no peer was told that it was there.
/// Where something that was synced stands behind such a place, it is damage, and RocksDB would drop
/// all of it without a word. As long as one lives, its thread's logs are looked at. One thread.
class RecoveredLogs {
 public:
  RecoveredLogs();
  RecoveredLogs(const RecoveredLogs&) = delete;
  RecoveredLogs& operator=(const RecoveredLogs&) = delete;
  ~RecoveredLogs();

  /// That of this thread; nullptr when there is none.
  static RecoveredLogs* current();

  /// Reads the next log in order; kCorrupt when it or one before it is damaged.
  Result<void> examine(const std::string& path);
  /// Whether the last of them ends in the midst of a record.
  bool torn() const { return !torn_at_.empty(); }

 private:
  Result<void> examine_block(ByteSpan block, const std::string& path, std::uint64_t offset);

  std::string torn_at_;  // empty: all was whole so far
  std::string tail_;     // of the record that is being read, as long as the mark
};

}  // namespace thaw
