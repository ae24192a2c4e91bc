#include "pageserver/sys/rocks_database.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <numeric>

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_batch.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "pageserver/sys/cached_reads.h"
#include "pageserver/sys/rocks_keys.h"

namespace thaw {

namespace {

using rocksdb::PinnableSlice;
using rocksdb::Slice;
using rocksdb::Status;

/// What each version has that the one before it had not; see take_over().
constexpr std::uint64_t kStoreVersion = 3;
constexpr std::size_t kBlockCacheBytes = 64u << 20;

constexpr std::array<std::pair<const char*, Family>, 6> kFamilies{{{"default", Family::kDefault},
                                                                   {"chunk", Family::kChunk},
                                                                   {"hash", Family::kHash},
                                                                   {"snapshot", Family::kSnapshot},
                                                                   {"meta", Family::kMeta},
                                                                   {"pack", Family::kPack}}};

Slice slice(std::string_view text) { return {text.data(), text.size()}; }
ByteSpan span_of(const Slice& value) { return as_bytes({value.data(), value.size()}); }

std::unexpected<Error> store_failure(const Status& status, const char* what) {
  ErrorCode code = ErrorCode::kIo;
  if (status.IsNotFound()) code = ErrorCode::kNotFound;
  if (status.IsCorruption()) code = ErrorCode::kCorrupt;
  if (status.IsNoSpace() || status.ToString().find("No space left") != std::string::npos) {
    code = ErrorCode::kNoSpace;
  }
  return fail(code, "{}: {}", what, status.ToString());
}

rocksdb::ColumnFamilyOptions family_options(Family family,
                                            const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.block_size = 4096;
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  if (family == Family::kHash) table.filter_policy.reset(rocksdb::NewRibbonFilterPolicy(10));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;
  options.level_compaction_dynamic_level_bytes = true;
  options.optimize_filters_for_hits = family == Family::kChunk;
  if (family == Family::kHash) {
    // A new page is looked up twice, and is in none of the memtables.
    options.memtable_prefix_bloom_size_ratio = 0.05;
    options.memtable_whole_key_filtering = true;
  }
  return options;
}

/// RocksDB's own messages, into our log. Its default, a file beside the data, aborts the process
/// (an assertion of Debian's build) when the disk is full.
class StoreLog final : public rocksdb::Logger {
 public:
  StoreLog() : Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}
  using Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    std::array<char, 512> line{};
    std::vsnprintf(line.data(), line.size(), format, arguments);
    log_warning("rocksdb: {}", line.data());
  }
};

/// Leaves getting over a failure to write(). When space runs out once more while RocksDB (7.8)
/// recovers from a full disk by itself, it refuses all writes until it is opened again. It would do
/// so as well when a compaction meets a damaged block; what is there can be read all the same, and
/// pushes go on, which may bring the damaged pages again.
class Failures final : public rocksdb::EventListener {
 public:
  explicit Failures(std::shared_ptr<std::atomic<bool>> happened) : happened_(std::move(happened)) {}
  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, Status* error) override {
    if (reason == rocksdb::BackgroundErrorReason::kCompaction && error->IsCorruption()) {
      log_error("files of the store are damaged: {}; run a scrub", error->ToString());
      *error = Status::OK();
      return;
    }
    *happened_ = true;
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, Status, bool* automatic) override {
    *automatic = false;
  }

 private:
  const std::shared_ptr<std::atomic<bool>> happened_;
};

rocksdb::DBOptions database_options(rocksdb::Env& env,
                                    const std::shared_ptr<std::atomic<bool>>& must_resume) {
  rocksdb::DBOptions options;
  options.env = &env;
  options.info_log = std::make_shared<StoreLog>();
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_open_files = -1;
  options.avoid_flush_during_shutdown = true;  // see fill_memtable()
  options.listeners.push_back(std::make_shared<Failures>(must_resume));
  // A torn tail of the log is the normal end after a crash; anything else refuses to open.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  return options;
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
                                                           ByteCount min_free) {
  return open(directory, min_free, Access::kOwner);
}

Result<std::unique_ptr<RocksDatabase>> RocksDatabase::open_replica(const std::string& directory) {
  if (!std::filesystem::exists(directory + "/CURRENT")) {
    return fail(ErrorCode::kNotFound, "there is no store in {}", directory);
  }
  return open(directory, {0}, Access::kReplica);
}

Result<std::unique_ptr<RocksDatabase>> RocksDatabase::open(const std::string& directory,
                                                           ByteCount min_free, Access access) {
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(kFamilies.size());
  for (const auto& [name, family] : kFamilies) {
    descriptors.emplace_back(name, family_options(family, cache));
  }
  auto env = create_caching_env();
  const auto must_resume = std::make_shared<std::atomic<bool>>(false);
  rocksdb::DB* db = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  const rocksdb::DBOptions options = database_options(*env, must_resume);
  // A replica has a place of its own only for a log, and its log is ours.
  const Status status =
      access == Access::kOwner
          ? rocksdb::DB::Open(options, directory, descriptors, &handles, &db)
          : rocksdb::DB::OpenAsSecondary(options, directory, directory, descriptors, &handles, &db);
  if (!status.ok()) {
    if (status.ToString().find("lock") != std::string::npos) {
      return fail(ErrorCode::kBusy, "{} is in use by another process", directory);
    }
    return store_failure(status, fmt::format("opening the store in {}", directory).c_str());
  }
  std::unique_ptr<RocksDatabase> opened(
      new RocksDatabase(std::move(env), std::unique_ptr<rocksdb::DB>(db), handles, must_resume,
                        directory, min_free, access));
  TRY(opened->check_version());
  if (access == Access::kOwner) TRY(opened->fill_memtable());
  return opened;
}

RocksDatabase::RocksDatabase(std::unique_ptr<rocksdb::Env> env, std::unique_ptr<rocksdb::DB> db,
                             const std::vector<rocksdb::ColumnFamilyHandle*>& handles,
                             std::shared_ptr<std::atomic<bool>> must_resume, std::string directory,
                             ByteCount min_free, Access access)
    : directory_(std::move(directory)),
      min_free_(min_free),
      access_(access),
      env_(std::move(env)),
      db_(std::move(db)),
      must_resume_(std::move(must_resume)) {
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
  if (access_ == Access::kReplica) {
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

/// Adds to `batch` what turns a store of this older version into one of the version after it, and
/// so on: both are there in one step, or neither.
Result<void> RocksDatabase::take_over(std::uint64_t version, Batch&) {
  switch (version) {
    case 1:  // had no packs: RocksDB has added their family by now
      [[fallthrough]];
    case 2:  // had no tags, settings, condemned or quarantined chunks: it is one that has none
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
  db_->MultiGet(options, family(from), distinct.size(), distinct.data(), read.values_.data(),
                read.statuses_.data(), /*sorted_input=*/true);
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
  return {};
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
  if (std::filesystem::exists(directory)) {
    return fail(ErrorCode::kAlreadyExists, "there is a backup \"{}\"", directory);
  }
  // It flushes first, so that no log is copied that another thread still writes to.
  if (const Status status = checkpoint->CreateCheckpoint(directory); !status.ok()) {
    return store_failure(status, "backing up the store");
  }
  return fill_memtable();
}

Result<void> RocksDatabase::verify_files() {
  if (const Status status = db_->VerifyChecksum(rocksdb::ReadOptions()); !status.ok()) {
    return store_failure(status, "verifying the store's files");
  }
  return {};
}

Result<void> RocksDatabase::check_space(const Batch& batch) {
  const ByteCount free = TRY(free_space(directory_));
  if (within(batch.changes_->GetDataSize(), min_free_.value, free.value)) return {};
  return fail(ErrorCode::kNoSpace, "{} MiB are left in {}, of which {} MiB stay free",
              free.value >> 20, directory_, min_free_.value >> 20);
}

/// After a failure, such as of a full disk, RocksDB refuses writes or leaves its files unmerged
/// until it is told to go on; the next write does that.
Result<void> RocksDatabase::write(Batch& batch, Durability durability) {
  if (access_ == Access::kReplica) return fail(ErrorCode::kUnsupported, "a replica is not written");
  if (must_resume_->exchange(false)) {
    if (const Status status = db_->Resume(); !status.ok()) {
      *must_resume_ = true;
      // After some failures RocksDB writes only when it was opened again. It goes on reading.
      log_error("the store cannot be written, maybe until the next start: {}", status.ToString());
      return store_failure(status, "the store cannot be written");
    }
    TRY(fill_memtable());
  }
  rocksdb::WriteOptions options;
  options.sync = durability == Durability::kSynced;
  if (const Status status = db_->Write(options, batch.changes_.get()); !status.ok()) {
    *must_resume_ = true;
    return store_failure(status, "writing to the store");
  }
  return {};
}

}  // namespace thaw
