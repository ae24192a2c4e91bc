#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "pageserver/sys/store_limits.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
class FileLock;
class PinnableSlice;
class Slice;
class Status;
class WriteBatch;
}  // namespace rocksdb

namespace thaw {

struct BackgroundFailure;

/// The column families, in the order in which they are opened. FORMAT.md has their keys.
enum class Family : std::uint8_t { kDefault, kChunk, kHash, kSnapshot, kMeta, kPack };

/// What a look-up of several keys found, in the caller's order. Values stay where RocksDB has them
/// and are valid as long as this object lives. Immutable.
class MultiRead {
 public:
  MultiRead();
  MultiRead(MultiRead&&) noexcept;
  MultiRead& operator=(MultiRead&&) noexcept;
  ~MultiRead();

  bool found(std::size_t i) const;
  bool missing(std::size_t i) const;
  /// Whether it was not looked for on the disk (OnlyCachedReads).
  bool cold(std::size_t i) const;
  /// REQUIRES: found(i).
  ByteSpan value(std::size_t i) const;
  /// REQUIRES: !found(i).
  std::unexpected<Error> failure(std::size_t i, const char* what) const;

 private:
  friend class RocksDatabase;
  // RocksDB 7.8 mishandles duplicate keys in one call, and sorted keys are read fastest, so each
  // key is asked for once, in order.
  std::vector<std::size_t> place_;  // by the caller's index
  std::vector<rocksdb::PinnableSlice> values_;
  std::vector<rocksdb::Status> statuses_;
};

/// A value where RocksDB has it; the span is valid as long as this object lives.
struct PinnedValue {
  ByteSpan value;
  std::shared_ptr<const void> pin;
};

/// The RocksDB in a directory: its column families, look-ups and writes as Results. Reads on any
/// number of threads, writes on one at a time.
class RocksDatabase {
 public:
  /// Changes that are made in one step. One thread.
  class Batch {
   public:
    explicit Batch(RocksDatabase& database);
    ~Batch();

    void put(Family to, const std::string& key, std::string_view value);
    void put_number(Family to, const std::string& key, std::uint64_t value);
    void remove(Family from, const std::string& key);
    /// Removes the keys in [first, end).
    void remove_range(Family from, const std::string& first, const std::string& end);
    /// Removes the keys with this prefix. REQUIRES: it is not empty and not all 0xff.
    void remove_prefix(Family from, const std::string& prefix);

   private:
    friend class RocksDatabase;
    RocksDatabase& database_;
    std::unique_ptr<rocksdb::WriteBatch> changes_;
  };

  /// Made if there is none. kBusy when another process has it open, kBadVersion when it is of a
  /// newer version, kCorrupt with the names of the damaged files, kPermission, kReadOnly, kNoSpace,
  /// kNoDescriptors.
  static Result<std::unique_ptr<RocksDatabase>> open(const std::string& directory,
                                                     const StoreLimits& limits);
  /// Beside the process that has it open and writes to it, or without one: as it was at the last
  /// catch_up(). Writes are kUnsupported. kNotFound when there is none, kBadVersion when it is of
  /// another version.
  static Result<std::unique_ptr<RocksDatabase>> open_replica(const std::string& directory,
                                                             const StoreLimits& limits);
  /// For a look at one that no process has open. Nothing of it is changed. Errors as above.
  static Result<std::unique_ptr<RocksDatabase>> open_reader(const std::string& directory,
                                                            const StoreLimits& limits);
  RocksDatabase(const RocksDatabase&) = delete;
  RocksDatabase& operator=(const RocksDatabase&) = delete;
  ~RocksDatabase();

  /// kNotFound when there is none; `what` begins the error's text.
  Result<Bytes> get(Family from, const std::string& key, const char* what);
  /// The same without a copy, for large values: the block cache keeps what it has instead.
  Result<PinnedValue> get_pinned(Family from, const std::string& key, const char* what);
  Result<std::optional<std::uint64_t>> get_number(Family from, const std::string& key);
  /// Bulk reads go past the block cache, which belongs to demand faults.
  enum class Caching { kCache, kPastTheCache };
  /// Many keys are not looked up as of one moment: other threads have their turns meanwhile.
  MultiRead multi_get(Family from, std::span<const std::string> keys,
                      Caching caching = Caching::kCache);
  /// Calls `visit` with the rest of each key that has this prefix, and its value, in order from
  /// `prefix + start` on, until it returns false.
  using Visit = std::function<Result<bool>(std::string_view key, ByteSpan value)>;
  Result<void> scan(Family from, const std::string& prefix, const std::string& start,
                    const Visit& visit);

  /// A replica's: takes in what was written since. kBadVersion when the owner has made it one of
  /// another version. Any thread, one at a time.
  Result<void> catch_up();

  /// Brings everything into tables, after which the log holds nothing. Nothing to do for a replica.
  Result<void> flush();
  /// Compacts everything, so that what was deleted takes up no room any more.
  Result<void> compact();
  Result<void> compact(Family which, const std::string& first, const std::string& last);
  /// compact() ends soon, as it does from now on.
  void stop_compacting();
  /// A consistent copy of all that was written before, durable, in a directory that is made.
  Result<void> back_up(const std::string& directory);
  /// Compares every block of every table with its checksum. A line for each that is damaged.
  std::vector<std::string> damaged_files();

  /// kNoSpace when the batch would leave too little on the file system: so many times what is to
  /// stay free.
  Result<void> check_space(const Batch& batch, unsigned reserves = 1);
  /// Durability::kSynced makes all that was written before durable too: RocksDB syncs every log
  /// that is not synced yet.
  enum class Durability { kLogged, kSynced };
  Result<void> write(Batch& batch, Durability durability);

 private:
  struct HandleDeleter {
    rocksdb::DB* db;
    void operator()(rocksdb::ColumnFamilyHandle* handle) const;
  };
  struct Unlock {
    rocksdb::Env* env;
    void operator()(rocksdb::FileLock* lock) const;
  };
  using FileLock = std::unique_ptr<rocksdb::FileLock, Unlock>;
  enum class Access { kOwner, kReplica, kReader };
  using Handle = std::unique_ptr<rocksdb::ColumnFamilyHandle, HandleDeleter>;

  RocksDatabase(std::unique_ptr<rocksdb::Env> env, std::unique_ptr<rocksdb::DB> db,
                const std::vector<rocksdb::ColumnFamilyHandle*>& handles,
                std::shared_ptr<BackgroundFailure> failure, std::string directory,
                ByteCount min_free, Access access);
  static Result<std::unique_ptr<RocksDatabase>> open(const std::string& directory,
                                                     const StoreLimits& limits, Access access);
  Result<void> check_version();
  Result<void> fill_memtable();
  enum class Waiting { kUntilDone, kNot };
  Result<void> flush(Waiting waiting);
  void mark_synced();
  Result<void> skip_ids();
  Result<void> compact(Family which, const rocksdb::Slice* first, const rocksdb::Slice* last);
  Result<void> take_over(std::uint64_t version, Batch& batch);
  rocksdb::ColumnFamilyHandle* family(Family which) const {
    return families_[static_cast<std::size_t>(which)].get();
  }

  const std::string directory_;
  const ByteCount min_free_;
  const Access access_;
  const std::unique_ptr<rocksdb::Env> env_;  // outlives the database and the lock
  FileLock lock_{nullptr, Unlock{nullptr}};  // a reader's; RocksDB has that of the owner
  const std::unique_ptr<rocksdb::DB> db_;
  std::vector<Handle> families_;
  std::size_t logged_bytes_ = 0;  // since the last flush
  const std::shared_ptr<BackgroundFailure> failure_;
};

}  // namespace thaw
