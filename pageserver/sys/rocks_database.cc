#include "pageserver/sys/rocks_database.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <system_error>
#include <thread>

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_batch.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/private_files.h"
#include "pageserver/store_id.h"
#include "pageserver/sys/recovered_logs.h"
#include "pageserver/sys/rocks_account.h"
#include "pageserver/sys/rocks_files.h"
#include "pageserver/sys/rocks_keys.h"
#include "pageserver/sys/rocks_options.h"
#include "pageserver/sys/store_files.h"

namespace thaw {

namespace {

using rocksdb::PinnableSlice;
using rocksdb::Slice;
using rocksdb::Status;

/// What each version has that the one before it had not; see take_over().
constexpr std::uint64_t kStoreVersion = 4;
/// Ids that are left out where some may have been lost: more than a log has room for.
constexpr std::uint64_t kSkippedChunks = 1u << 24;
constexpr std::uint64_t kSkippedSnapshots = 1u << 16;
/// Some 100 us of looking up. Then threads that wait for the CPU get it: precedence alone has the
/// loop wait for up to 5 ms, until the kernel looks again whose turn it is.
constexpr std::size_t kKeysAtOnce = 128;
/// A start after a crash reads 10 ms of log for each MiB, of two or three logs of this size.
constexpr std::size_t kLogBytes = std::size_t{48} << 20;

Slice slice(std::string_view text) { return {text.data(), text.size()}; }
ByteSpan span_of(const Slice& value) { return as_bytes({value.data(), value.size()}); }

/// RocksDB's threads begin with their first work, in the midst of a write, where it could not be
/// said that there are none. They are the process's.
void start_threads(rocksdb::Env& env) {
  for (const auto priority : {rocksdb::Env::Priority::LOW, rocksdb::Env::Priority::HIGH}) {
    env.IncBackgroundThreadsIfNeeded(1, priority);
    env.Schedule([](void*) {}, nullptr, priority);
  }
}

}  // namespace

MultiRead::MultiRead() = default;
MultiRead::MultiRead(MultiRead&&) noexcept = default;
MultiRead& MultiRead::operator=(MultiRead&&) noexcept = default;
MultiRead::~MultiRead() = default;

bool MultiRead::found(std::size_t i) const { return statuses_[place_[i]].ok(); }
bool MultiRead::missing(std::size_t i) const { return statuses_[place_[i]].IsNotFound(); }
bool MultiRead::cold(std::size_t i) const { return is_cold(statuses_[place_[i]]); }
ByteSpan MultiRead::value(std::size_t i) const { return span_of(values_[place_[i]]); }
std::unexpected<Error> MultiRead::failure(std::size_t i, const char* what) const {
  return store_failure(statuses_[place_[i]], what);
}

RocksDatabase::Batch::Batch(RocksDatabase& database)
    : database_(database), changes_(std::make_unique<rocksdb::WriteBatch>()) {}
RocksDatabase::Batch::~Batch() = default;

void RocksDatabase::Batch::put(Family to, const std::string& key, std::string_view value) {
  CHECK(changes_->Put(database_.family(to), slice(key), slice(value)).ok());
}
void RocksDatabase::Batch::put_number(Family to, const std::string& key, std::uint64_t value) {
  put(to, key, number_key(value));
}
void RocksDatabase::Batch::remove(Family from, const std::string& key) {
  CHECK(changes_->Delete(database_.family(from), slice(key)).ok());
}

void RocksDatabase::Batch::remove_range(Family from, const std::string& first,
                                        const std::string& end) {
  if (first >= end) return;
  CHECK(changes_->DeleteRange(database_.family(from), slice(first), slice(end)).ok());
}
void RocksDatabase::Batch::remove_prefix(Family from, const std::string& prefix) {
  std::string end = prefix;
  while (end.back() == '\xff') end.pop_back();
  end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
  remove_range(from, prefix, end);
}

Result<std::unique_ptr<RocksDatabase>> RocksDatabase::open(const std::string& directory,
                                                           const StoreLimits& limits) {
  return open(directory, limits, Access::kOwner);
}

Result<std::unique_ptr<RocksDatabase>> RocksDatabase::open_replica(const std::string& directory,
                                                                   const StoreLimits& limits) {
  return open(directory, limits, Access::kReplica);
}

Result<std::unique_ptr<RocksDatabase>> RocksDatabase::open_reader(const std::string& directory,
                                                                  const StoreLimits& limits) {
  return open(directory, limits, Access::kReader);
}

Result<std::unique_ptr<RocksDatabase>> RocksDatabase::open(const std::string& directory,
                                                           const StoreLimits& limits,
                                                           Access access) {
  if (access == Access::kOwner) TRY(make_private_directory(directory));
  const bool is_new = !TRY(has_store_files(directory));
  if (is_new && access != Access::kOwner) {
    return fail(ErrorCode::kNotFound, "there is no store in {}", directory);
  }
  if (access == Access::kReplica) TRY(check_private_directory(directory));
  if (!is_new && access == Access::kOwner) TRY(check_manifest(directory));
  auto env = create_store_env();
  const auto failure = std::make_shared<BackgroundFailure>();
  rocksdb::DBOptions options = database_options(*env, limits.open_tables, failure);
  // Where something is left of a store, an empty one would take its place.
  options.create_if_missing = is_new;
  options.create_missing_column_families = access == Access::kOwner;
  const auto families = column_families();
  rocksdb::DB* db = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  take_file_error();
  FileLock lock(nullptr, Unlock{env.get()});
  if (access == Access::kReader) {
    rocksdb::FileLock* taken = nullptr;
    const Status locked = env->LockFile(directory + "/LOCK", &taken);
    lock.reset(taken);
    // Where nothing can be written no other process writes either.
    if (!locked.ok()) {
      const auto refused = open_failure(locked, directory);
      if (refused.error().code() == ErrorCode::kBusy) return refused;
    }
  }
  Status status;
  bool torn = false;
  try {
    start_threads(*env);
    switch (access) {
      case Access::kOwner: {
        const RecoveredLogs logs;
        status = rocksdb::DB::Open(options, directory, families, &handles, &db);
        torn = logs.torn();
        break;
      }
      case Access::kReplica:
        // It has a place of its own only for a log, and its log is ours.
        status =
            rocksdb::DB::OpenAsSecondary(options, directory, directory, families, &handles, &db);
        break;
      case Access::kReader: {
        const RecoveredLogs logs;
        status = rocksdb::DB::OpenForReadOnly(options, directory, families, &handles, &db);
        break;
      }
    }
  } catch (const std::system_error& error) {
    return fail_errno("starting the store's threads", error.code().value());
  }
  if (!status.ok()) return open_failure(status, directory);
  std::unique_ptr<RocksDatabase> opened(
      new RocksDatabase(std::move(env), std::unique_ptr<rocksdb::DB>(db), handles, failure,
                        directory, limits.min_free, access));
  opened->lock_ = std::move(lock);
  TRY(opened->check_version());
  if (access == Access::kOwner) TRY(opened->fill_memtable());
  if (torn) TRY(opened->skip_ids());
  return opened;
}

RocksDatabase::RocksDatabase(std::unique_ptr<rocksdb::Env> env, std::unique_ptr<rocksdb::DB> db,
                             const std::vector<rocksdb::ColumnFamilyHandle*>& handles,
                             std::shared_ptr<BackgroundFailure> failure, std::string directory,
                             ByteCount min_free, Access access)
    : directory_(std::move(directory)),
      min_free_(min_free),
      access_(access),
      env_(std::move(env)),
      db_(std::move(db)),
      failure_(std::move(failure)) {
  for (rocksdb::ColumnFamilyHandle* handle : handles) {
    families_.push_back(Handle(handle, HandleDeleter{db_.get()}));
  }
}

RocksDatabase::~RocksDatabase() {
  families_.clear();
  if (const Status status = db_->Close(); !status.ok()) {
    log_error("closing the store: {}", status.ToString());
  }
}

void RocksDatabase::Unlock::operator()(rocksdb::FileLock* lock) const { env->UnlockFile(lock); }

void RocksDatabase::HandleDeleter::operator()(rocksdb::ColumnFamilyHandle* handle) const {
  db->DestroyColumnFamilyHandle(handle);
}

Result<void> RocksDatabase::check_version() {
  const auto version = TRY(get_number(Family::kMeta, "version"));
  if (version && *version > kStoreVersion) {
    return fail(ErrorCode::kBadVersion, "the store has version {}, this build knows up to {}",
                *version, kStoreVersion);
  }
  if (version == kStoreVersion) return {};
  // It was there, synced, before the store had its id.
  if (!version && has_store_id(directory_)) {
    return fail(ErrorCode::kCorrupt,
                "the store in {} has lost its version and maybe all else: a log of it is missing",
                directory_);
  }
  if (access_ == Access::kReader && version) return {};
  if (access_ != Access::kOwner) {
    return fail(ErrorCode::kBadVersion,
                "the store is of an older version, which its owner changes");
  }
  Batch batch(*this);
  if (version) TRY(take_over(*version, batch));
  batch.put_number(Family::kMeta, "version", kStoreVersion);
  return write(batch, Durability::kSynced);
}

/// After a write to the log has failed, RocksDB (7.8) begins another log only together with other
/// memtables, and those only if there is anything in them; else it goes on with the bad one, which
/// ends the process (an assertion of Debian's build). So something is always in there, past the
/// log: the version, which is there already.
Result<void> RocksDatabase::fill_memtable() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  const std::string version = number_key(kStoreVersion);
  const Status status = db_->Put(options, family(Family::kMeta), "version", version);
  if (!status.ok()) return store_failure(status, "writing to the store");
  return {};
}

Result<void> RocksDatabase::flush() {
  return access_ == Access::kOwner ? flush(Waiting::kUntilDone) : Result<void>();
}

Result<void> RocksDatabase::flush(Waiting waiting) {
  logged_bytes_ = 0;
  rocksdb::FlushOptions options;
  options.wait = waiting == Waiting::kUntilDone;
  options.allow_write_stall = true;  // it would wait until there is none
  std::vector<rocksdb::ColumnFamilyHandle*> all;
  for (const Handle& each : families_) all.push_back(each.get());
  const Status status = db_->Flush(options, all);
  if (!status.ok()) return store_failure(status, "writing tables of the store");
  return fill_memtable();
}

/// The last records of the log are gone. Were they acknowledged, and damaged since, what they gave
/// out is known to others: it is not given out again.
Result<void> RocksDatabase::skip_ids() {
  Batch batch(*this);
  const auto skip = [&](char kind, std::uint64_t count) -> Result<void> {
    return scan(Family::kMeta, std::string(1, kind), {},
                [&](std::string_view in, ByteSpan number) -> Result<bool> {
                  if (in.size() != 2) return true;
                  batch.put_number(Family::kMeta, kind + std::string(in),
                                   TRY(parse_number(number)) + count);
                  return true;
                });
  };
  TRY(skip(kWatermark, kSkippedChunks));
  TRY(skip(kLastSnapshot, kSkippedSnapshots));
  log_warning("the store's log ends in the midst of a record, as after a crash");
  return write(batch, Durability::kSynced);
}

/// Adds to `batch` what turns a store of this older version into one of the version after it, and
/// so on: both are there in one step, or neither.
Result<void> RocksDatabase::take_over(std::uint64_t version, Batch& batch) {
  switch (version) {
    case 1:  // had no packs: RocksDB has added their family by now
      [[fallthrough]];
    case 2:  // had no tags, settings, condemned or quarantined chunks: it is one that has none
      [[fallthrough]];
    case 3:  // counted chunks and packs alone
      for (const NamedNamespace& each : TRY(read_namespaces(*this))) {
        log_info("counting what namespace {} has stored, once", each.name);
        put_entry_totals(batch, each.id, TRY(count_entries(*this, each.id)));
      }
      return {};
    default:
      return fail(ErrorCode::kBadVersion, "the store has version {}, which there never was",
                  version);
  }
}

Result<Bytes> RocksDatabase::get(Family from, const std::string& key, const char* what) {
  PinnableSlice value;
  const Status status = db_->Get(rocksdb::ReadOptions(), family(from), slice(key), &value);
  if (!status.ok()) return store_failure(status, what);
  const ByteSpan found = span_of(value);
  return Bytes(found.begin(), found.end());
}

Result<PinnedValue> RocksDatabase::get_pinned(Family from, const std::string& key,
                                              const char* what) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const auto value = std::make_shared<PinnableSlice>();
  const Status status = db_->Get(options, family(from), slice(key), value.get());
  if (!status.ok()) return store_failure(status, what);
  return PinnedValue{span_of(*value), value};
}

Result<std::optional<std::uint64_t>> RocksDatabase::get_number(Family from,
                                                               const std::string& key) {
  PinnableSlice value;
  const Status status = db_->Get(rocksdb::ReadOptions(), family(from), slice(key), &value);
  if (status.IsNotFound()) return std::optional<std::uint64_t>();
  if (!status.ok()) return store_failure(status, "reading the store");
  return std::optional(TRY(parse_number(span_of(value))));
}

MultiRead RocksDatabase::multi_get(Family from, std::span<const std::string> keys,
                                   Caching caching) {
  rocksdb::ReadOptions options;
  options.fill_cache = caching == Caching::kCache;
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return std::string_view(keys[i]); });
  std::vector<Slice> distinct;
  MultiRead read;
  read.place_.resize(keys.size());
  for (const std::size_t i : order) {
    if (distinct.empty() || distinct.back() != Slice(keys[i])) distinct.emplace_back(keys[i]);
    read.place_[i] = distinct.size() - 1;
  }
  read.values_ = std::vector<PinnableSlice>(distinct.size());
  read.statuses_ = std::vector<Status>(distinct.size());
  if (distinct.size() == 1) {
    // Most demand requests; MultiGet has more to set up.
    read.statuses_[0] = db_->Get(options, family(from), distinct[0], &read.values_[0]);
    return read;
  }
  for (std::size_t at = 0; at < distinct.size(); at += kKeysAtOnce) {
    if (at != 0) std::this_thread::yield();
    const std::size_t count = std::min(kKeysAtOnce, distinct.size() - at);
    db_->MultiGet(options, family(from), count, &distinct[at], &read.values_[at],
                  &read.statuses_[at], /*sorted_input=*/true);
  }
  return read;
}

Result<void> RocksDatabase::scan(Family from, const std::string& prefix, const std::string& start,
                                 const Visit& visit) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> entry(db_->NewIterator(options, family(from)));
  for (entry->Seek(prefix + start); entry->Valid() && entry->key().starts_with(prefix);
       entry->Next()) {
    Slice rest = entry->key();
    rest.remove_prefix(prefix.size());
    if (!TRY(visit(rest.ToStringView(), span_of(entry->value())))) return {};
  }
  if (!entry->status().ok()) return store_failure(entry->status(), "going through the store");
  return {};
}

Result<void> RocksDatabase::catch_up() {
  CHECK(access_ == Access::kReplica);
  if (const Status status = db_->TryCatchUpWithPrimary(); !status.ok()) {
    return store_failure(status, "catching up with the store's owner");
  }
  return check_version();
}

Result<void> RocksDatabase::compact() {
  for (const auto& [name, which] : kFamilies) TRY(compact(which, nullptr, nullptr));
  return fill_memtable();
}

Result<void> RocksDatabase::compact(Family which, const std::string& first,
                                    const std::string& last) {
  const Slice begin = slice(first);
  const Slice end = slice(last);
  return compact(which, &begin, &end);
}

Result<void> RocksDatabase::compact(Family which, const Slice* first, const Slice* last) {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  // Files at the bottom would else be left as they are, deleted chunks and all.
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  const Status status = db_->CompactRange(options, family(which), first, last);
  if (!status.ok()) return store_failure(status, "compacting the store");
  return {};
}

void RocksDatabase::stop_compacting() { db_->DisableManualCompaction(); }

Result<void> RocksDatabase::back_up(const std::string& directory) {
  rocksdb::Checkpoint* made = nullptr;
  if (const Status status = rocksdb::Checkpoint::Create(db_.get(), &made); !status.ok()) {
    return store_failure(status, "backing up the store");
  }
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  TRY(check_private_directory(std::filesystem::path(directory).parent_path()));
  if (std::filesystem::exists(directory)) {
    return fail(ErrorCode::kAlreadyExists, "there is a backup \"{}\"", directory);
  }
  // It flushes first, so that no log is copied that another thread still writes to.
  if (const Status status = checkpoint->CreateCheckpoint(directory); !status.ok()) {
    return store_failure(status, "backing up the store");
  }
  return fill_memtable();
}

std::vector<std::string> RocksDatabase::damaged_files() {
  std::vector<rocksdb::LiveFileMetaData> files;
  db_->GetLiveFilesMetaData(&files);
  std::vector<std::string> tables;
  tables.reserve(files.size());
  for (const rocksdb::LiveFileMetaData& file : files) tables.push_back(file.directory + file.name);
  std::vector<std::string> lines;
  for (const DamagedFile& file : damaged_tables(tables, Reading::kAll)) {
    lines.push_back(file.text());
  }
  return lines;
}

Result<void> RocksDatabase::check_space(const Batch& batch, unsigned reserves) {
  const auto space = free_space(directory_);
  // Not what a peer has asked for is missing.
  if (!space) return fail(ErrorCode::kIo, "the store's directory: {}", space.error().message());
  const ByteCount free = *space;
  const ByteCount reserve{min_free_.value * reserves};
  if (within(batch.changes_->GetDataSize(), reserve.value, free.value)) return {};
  return fail(ErrorCode::kNoSpace, "{} MiB are left in {}, of which {} MiB stay free",
              free.value >> 20, directory_, reserve.value >> 20);
}

/// After a failure, such as of a full disk, RocksDB refuses writes or leaves its files unmerged
/// until it is told to go on; the next write does that.
/// Behind the last batch, too, stands that it was synced. Where this is lost with a crash, that
/// batch counts as one that no peer was told of if it is damaged as well.
void RocksDatabase::mark_synced() {
  rocksdb::WriteBatch mark;
  CHECK(mark.PutLogData(slice(kSyncedMark)).ok());
  if (!db_->Write(rocksdb::WriteOptions(), &mark).ok()) failure_->must_resume = true;
}

Result<void> RocksDatabase::write(Batch& batch, Durability durability) {
  if (access_ != Access::kOwner) return fail(ErrorCode::kUnsupported, "a replica is not written");
  if (failure_->must_resume.exchange(false)) {
    if (const Status status = db_->Resume(); !status.ok()) {
      failure_->must_resume = true;
      // After some failures RocksDB writes only when it was opened again. It goes on reading.
      log_error("the store cannot be written, maybe until the next start: {}", status.ToString());
      return store_failure(status, "the store cannot be written", failure_->error_number);
    }
    TRY(fill_memtable());
  }
  rocksdb::WriteOptions options;
  options.sync = durability == Durability::kSynced;
  if (options.sync) CHECK(batch.changes_->PutLogData(slice(kSyncedMark)).ok());
  if (const Status status = db_->Write(options, batch.changes_.get()); !status.ok()) {
    failure_->must_resume = true;
    return store_failure(status, "writing to the store", failure_->error_number);
  }
  if (options.sync) mark_synced();
  // A family that is hardly ever written would keep each log until its memtable is full.
  logged_bytes_ += batch.changes_->GetDataSize();
  if (logged_bytes_ < kLogBytes) return {};
  if (const auto flushed = flush(Waiting::kNot); !flushed) {
    log_warning("the store's log stays: {}", flushed.error().message());
  }
  return {};
}

}  // namespace thaw
