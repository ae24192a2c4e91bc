#include "pageserver/sys/rocks_repair.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <ranges>
#include <system_error>

#include <rocksdb/db.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/write_batch.h>

#include "base/check.h"
#include "base/file.h"
#include "pageserver/store_id.h"
#include "pageserver/sys/recovered_logs.h"
#include "pageserver/sys/rocks_database.h"
#include "pageserver/sys/rocks_files.h"
#include "pageserver/sys/rocks_keys.h"
#include "pageserver/sys/rocks_options.h"
#include "pageserver/sys/store_files.h"

namespace thaw {

namespace {

namespace fs = std::filesystem;
using rocksdb::Slice;
using rocksdb::Status;

/// Ids are given out from so far beyond those that are known: what was lost may have had higher
/// ones.
constexpr std::uint64_t kLostChunks = std::uint64_t{1} << 32;
constexpr std::uint64_t kLostSnapshots = std::uint64_t{1} << 20;
/// Of a key, for finding the next one behind a damaged block.
constexpr std::size_t kSteppedBytes = 16;
constexpr std::size_t kBatchEntries = 1024;

/// Of a repaired store all tables are in the level of those that overlap, in no order, until they
/// are compacted.
std::vector<rocksdb::ColumnFamilyDescriptor> lenient_families() {
  auto families = column_families();
  for (rocksdb::ColumnFamilyDescriptor& family : families) {
    family.options.force_consistency_checks = false;
    family.options.disable_auto_compactions = true;
    family.options.level0_slowdown_writes_trigger = 1 << 30;
    family.options.level0_stop_writes_trigger = 1 << 30;
  }
  return families;
}

/// A database with its families, for as long as it is needed.
class RawDatabase {
 public:
  enum class Mode { kReadOnly, kNew, kRepaired };
  static Result<std::unique_ptr<RawDatabase>> open(const std::string& directory, Mode mode) {
    auto raw = std::make_unique<RawDatabase>();
    raw->env_ = create_store_env();
    rocksdb::DBOptions options =
        database_options(*raw->env_, kTables, std::make_shared<BackgroundFailure>());
    options.create_if_missing = mode == Mode::kNew;
    options.create_missing_column_families = mode != Mode::kReadOnly;
    const auto families = lenient_families();
    take_file_error();
    rocksdb::DB* db = nullptr;
    std::optional<RecoveredLogs> logs;
    if (mode == Mode::kReadOnly) logs.emplace();
    const Status status =
        mode == Mode::kReadOnly
            ? rocksdb::DB::OpenForReadOnly(options, directory, families, &raw->handles_, &db)
            : rocksdb::DB::Open(options, directory, families, &raw->handles_, &db);
    logs.reset();
    if (!status.ok()) return open_failure(status, directory);
    raw->db_.reset(db);
    return raw;
  }
  RawDatabase() = default;
  RawDatabase(const RawDatabase&) = delete;
  RawDatabase& operator=(const RawDatabase&) = delete;
  ~RawDatabase() {
    for (rocksdb::ColumnFamilyHandle* const handle : handles_) {
      db_->DestroyColumnFamilyHandle(handle);
    }
    if (db_ != nullptr) db_->Close();
  }

  rocksdb::DB& db() { return *db_; }
  const std::vector<rocksdb::ColumnFamilyHandle*>& families() const { return handles_; }
  /// nullptr: there is none of this name.
  rocksdb::ColumnFamilyHandle* family(const std::string& name) const {
    const auto found =
        std::ranges::find(handles_, name, [](const auto* handle) { return handle->GetName(); });
    return found == handles_.end() ? nullptr : *found;
  }

 private:
  static constexpr std::size_t kTables = 256;
  std::unique_ptr<rocksdb::Env> env_;  // outlives the database
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;
};

/// The entries of a damaged table that were saved, in a table of their own.
struct SavedTable {
  std::string path;
  std::string family;
};

class Repair {
 public:
  explicit Repair(const std::string& directory)
      : directory_(directory), lost_(directory + "/lost"), env_(create_store_env()) {}

  Result<std::vector<std::string>> run() {
    if (!TRY(has_store_files(directory_))) {
      return fail(ErrorCode::kNotFound, "there is no store in {}", directory_);
    }
    rocksdb::FileLock* lock = nullptr;
    take_file_error();
    const Status locked = env_->LockFile(directory_ + "/LOCK", &lock);
    if (!locked.ok()) return open_failure(locked, directory_);
    const auto needed = set_damaged_aside();
    // RocksDB takes it itself.
    env_->UnlockFile(lock);
    if (!TRY(needed)) return lines_;
    TRY(rebuild());
    TRY(put_saved_back());
    TRY(move_ids_on());
    return std::move(lines_);
  }

 private:
  /// False when there is nothing to rebuild.
  Result<bool> set_damaged_aside() {
    TRY(set_damaged_id_aside());
    std::vector<std::string> tables;
    std::map<std::string, std::string> families;  // by path
    const auto opened = RawDatabase::open(directory_, RawDatabase::Mode::kReadOnly);
    if (opened) {
      std::vector<rocksdb::LiveFileMetaData> files;
      (*opened)->db().GetLiveFilesMetaData(&files);
      for (const rocksdb::LiveFileMetaData& file : files) {
        tables.push_back(file.directory + file.name);
        families[tables.back()] = file.column_family_name;
      }
    } else if (opened.error().code() == ErrorCode::kBadVersion) {
      return false;  // which is said when it is opened
    } else if (opened.error().code() != ErrorCode::kCorrupt) {
      return std::unexpected(opened.error());
    } else {
      lines_.push_back(opened.error().context());
      tables = tables_in(directory_);
    }
    const std::vector<DamagedFile> damaged = damaged_tables(tables, Reading::kAll);
    if (opened && damaged.empty()) return false;
    TRY(make_directory(lost_));
    for (const DamagedFile& table : damaged) {
      lines_.push_back(table.text());
      TRY(save(table.path, families[table.path]));
      TRY(move(table.path, lost_ + "/" + name_of(table.path)));
    }
    return true;
  }

  Result<void> set_damaged_id_aside() {
    const auto damage = store_id_damage(directory_);
    if (!damage) return {};
    lines_.push_back(*damage);
    return renew_id();
  }
  Result<void> renew_id() {
    TRY(make_directory(lost_));
    TRY(move(directory_ + "/" + kStoreIdFile, lost_ + "/" + kStoreIdFile));
    lines_.emplace_back("the store gets a new id with its next start");
    return {};
  }

  /// Copies what can be read of a damaged table.
  Result<void> save(const std::string& table, std::string family) {
    rocksdb::SstFileReader reader(table_options(*env_));
    const Status opened = reader.Open(table);
    if (opened.ok() && family.empty()) family = reader.GetTableProperties()->column_family_name;
    if (!opened.ok() || family.empty()) {
      lines_.push_back(fmt::format("nothing of {} can be read", name_of(table)));
      return {};
    }
    const std::string path = lost_ + "/" + name_of(table) + ".saved";
    const rocksdb::Options options = table_options(*env_);
    rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), options);
    Status status = writer.Open(path);
    std::uint64_t entries = 0;
    std::uint64_t gaps = 0;
    const auto keep = [&](const Slice& key, const Slice& value) {
      if (status.ok()) status = writer.Put(key, value);
      ++entries;
    };
    for_each_readable(reader, keep, gaps);
    if (entries > 0 && status.ok()) status = writer.Finish();
    if (!status.ok()) return store_failure(status, "saving what can be read of a damaged table");
    if (entries > 0) saved_.push_back({path, family});
    lines_.push_back(fmt::format("{} entries of {} were saved; lost are those at {} places",
                                 entries, name_of(table), gaps));
    return {};
  }

  template <typename Visit>
  static void for_each_readable(rocksdb::SstFileReader& table, const Visit& visit,
                                std::uint64_t& gaps) {
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    const std::unique_ptr<rocksdb::Iterator> at(table.NewIterator(options));
    std::string last;  // visited
    at->SeekToFirst();
    while (true) {
      for (; at->Valid(); at->Next()) {
        last = at->key().ToString();
        visit(at->key(), at->value());
      }
      if (at->status().ok()) return;
      ++gaps;
      // Somewhere behind the damaged block, and from there back to it.
      if (!seek_behind(*at, last)) return;
      std::vector<std::pair<std::string, std::string>> between;
      for (; at->Valid() && at->key().ToString() > last; at->Prev()) {
        between.emplace_back(at->key().ToString(), at->value().ToString());
      }
      if (between.empty()) return;
      for (const auto& [key, value] : between | std::views::reverse) visit(key, value);
      last = between.front().first;
      at->Seek(last);
      if (at->Valid()) at->Next();
    }
  }

  /// Steps that double lead over a block of any size.
  static bool seek_behind(rocksdb::Iterator& at, const std::string& last) {
    for (std::size_t doubled = 0; doubled < 8 * kSteppedBytes; ++doubled) {
      std::string key = last;
      key.resize(std::max(key.size(), kSteppedBytes));
      unsigned carry = 1u << doubled % 8;
      for (std::size_t i = kSteppedBytes - doubled / 8; i-- > 0 && carry > 0;) {
        const unsigned sum = static_cast<unsigned char>(key[i]) + carry;
        key[i] = static_cast<char>(sum & 0xff);
        carry = sum >> 8;
      }
      if (carry > 0) break;
      at.Seek(key);
      if (at.Valid()) return true;
      if (at.status().ok()) break;
    }
    at.SeekToLast();
    return at.Valid();
  }

  /// RocksDB makes a new manifest of all tables, and tables of the logs.
  Result<void> rebuild() {
    TRY(add_family_tables());
    take_file_error();
    rocksdb::DBOptions options =
        database_options(*env_, kOpenTables, std::make_shared<BackgroundFailure>());
    const Status status = rocksdb::RepairDB(directory_, options, lenient_families());
    if (!status.ok()) return open_failure(status, directory_);
    const auto repaired = TRY(RawDatabase::open(directory_, RawDatabase::Mode::kRepaired));
    rocksdb::CompactRangeOptions compaction;
    compaction.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
    for (rocksdb::ColumnFamilyHandle* const family : repaired->families()) {
      Status done = repaired->db().Delete({}, family, family_key());
      if (done.ok()) done = repaired->db().CompactRange(compaction, family, nullptr, nullptr);
      if (!done.ok()) return store_failure(done, "compacting the repaired store");
    }
    return {};
  }

  /// RocksDB knows the families from tables alone: one of which all is in the logs has none.
  Result<void> add_family_tables() {
    const std::string path = lost_ + "/families";
    {
      const auto empty = TRY(RawDatabase::open(path, RawDatabase::Mode::kNew));
      for (rocksdb::ColumnFamilyHandle* const family : empty->families()) {
        Status done = empty->db().Put({}, family, family_key(), {});
        if (done.ok()) done = empty->db().Flush({}, family);
        if (!done.ok()) return store_failure(done, "making empty families");
      }
    }
    std::uint64_t number = 0;
    for (const std::string& file : tables_in(directory_)) {
      std::uint64_t taken = 0;
      const std::string name = name_of(file);
      std::from_chars(name.data(), name.data() + name.size(), taken);
      number = std::max(number, taken);
    }
    for (const std::string& file : tables_in(path)) {
      // Beyond all logs too, which have numbers of the same series.
      TRY(move(file, fmt::format("{}/{:06}.sst", directory_, ++number + kLogNumbers)));
    }
    std::error_code ignored;
    fs::remove_all(path, ignored);
    return {};
  }

  /// What is there now stays: a saved entry may be older.
  Result<void> put_saved_back() {
    if (saved_.empty()) return {};
    const auto repaired = TRY(RawDatabase::open(directory_, RawDatabase::Mode::kRepaired));
    for (const SavedTable& table : saved_) {
      rocksdb::ColumnFamilyHandle* const family = repaired->family(table.family);
      rocksdb::SstFileReader reader(table_options(*env_));
      Status status = family == nullptr ? Status::OK() : reader.Open(table.path);
      rocksdb::WriteBatch batch;
      const auto write = [&] {
        if (status.ok()) status = repaired->db().Write({}, &batch);
        batch.Clear();
      };
      if (family != nullptr && status.ok()) {
        const std::unique_ptr<rocksdb::Iterator> at(reader.NewIterator({}));
        std::string ignored;
        for (at->SeekToFirst(); at->Valid() && status.ok(); at->Next()) {
          const Status found = repaired->db().Get({}, family, at->key(), &ignored);
          if (!found.ok() && !found.IsNotFound()) status = found;
          if (found.IsNotFound()) status = batch.Put(family, at->key(), at->value());
          if (batch.Count() >= kBatchEntries) write();
        }
        if (status.ok()) status = at->status();
        write();
        if (status.ok()) status = repaired->db().Flush({}, family);
      }
      if (!status.ok()) return store_failure(status, "putting saved entries back");
      remove_file(table.path);
    }
    return {};
  }

  Result<void> move_ids_on() {
    const auto repaired = TRY(RawDatabase::open(directory_, RawDatabase::Mode::kRepaired));
    rocksdb::ColumnFamilyHandle* const meta = repaired->family("meta");
    std::map<NamespaceId, std::uint64_t> last_snapshots;
    for (NamespaceId in{1}; in.value != 0; ++in.value) {
      // The next namespace that has any.
      const auto first = first_from(*repaired, "snapshot", prefixed(kManifests, in));
      if (!first || first->size() < 3 || first->front() != kManifests) break;
      in.value = static_cast<std::uint16_t>(load_big_endian(as_bytes(*first).subspan(1, 2)));
      last_snapshots[in] = last_number(*repaired, "snapshot", prefixed(kManifests, in));
    }
    std::map<NamespaceId, std::string> names;
    const std::unique_ptr<rocksdb::Iterator> name(repaired->db().NewIterator({}, meta));
    for (name->Seek(Slice(kNamespaces.data(), kNamespaces.size()));
         name->Valid() && name->key().starts_with(Slice(kNamespaces.data(), kNamespaces.size()));
         name->Next()) {
      const auto number = TRY(parse_number(as_bytes(name->value().ToStringView())));
      names[{static_cast<std::uint16_t>(number)}] = name->key().ToString();
    }
    rocksdb::WriteBatch batch;
    const auto put = [&](const std::string& key, std::uint64_t value) {
      CHECK(batch.Put(meta, key, number_key(value)).ok());
    };
    for (const auto& [in, last] : last_snapshots) {
      if (names.contains(in)) continue;
      names[in] = fmt::format("{}restored-{}", kNamespaces, in.value);
      put(names[in], in.value);
      lines_.push_back(
          fmt::format("a namespace has lost its name and is restored-{} now", in.value));
    }
    for (const auto& [in, key] : names) {
      std::string chunks;
      append_big_endian(chunks, in.value, 2);
      const ChunkId last{last_number(*repaired, "chunk", chunks)};
      const std::string watermark = prefixed(kWatermark, in);
      put(watermark, std::max(number_of(*repaired, watermark), last.sequence()) + kLostChunks);
      const std::string counter = prefixed(kLastSnapshot, in);
      put(counter, std::max(number_of(*repaired, counter), last_snapshots[in]) + kLostSnapshots);
    }
    if (!names.empty()) {
      put("namespaces",
          std::max<std::uint64_t>(number_of(*repaired, "namespaces"), names.rbegin()->first.value));
    }
    rocksdb::WriteOptions synced;
    synced.sync = true;
    const Status status = repaired->db().Write(synced, &batch);
    if (!status.ok()) return store_failure(status, "moving the ids on");
    if (!has_store_id(directory_)) return {};
    return renew_id();
  }

  static std::optional<std::string> first_from(RawDatabase& in, const char* family,
                                               const std::string& key) {
    const std::unique_ptr<rocksdb::Iterator> at(in.db().NewIterator({}, in.family(family)));
    at->Seek(key);
    return at->Valid() ? std::optional(at->key().ToString()) : std::nullopt;
  }
  /// The last eight bytes of the last key with this prefix; 0 when there is none.
  static std::uint64_t last_number(RawDatabase& in, const char* family, const std::string& prefix) {
    const std::unique_ptr<rocksdb::Iterator> at(in.db().NewIterator({}, in.family(family)));
    at->SeekForPrev(prefix + std::string(16, '\xff'));
    if (!at->Valid() || !at->key().starts_with(prefix) || at->key().size() < 8) return 0;
    const std::string key = at->key().ToString();
    return load_big_endian(as_bytes(key).last(8));
  }
  static std::uint64_t number_of(RawDatabase& in, const std::string& key) {
    std::string value;
    const Status status = in.db().Get({}, in.family("meta"), key, &value);
    if (!status.ok()) return 0;
    return parse_number(as_bytes(value)).value_or(0);
  }

  static std::string name_of(const std::string& path) { return fs::path(path).filename(); }
  /// Nothing else begins with it.
  static std::string family_key() { return "\xff"; }

  static Result<void> make_directory(const std::string& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) return fail_errno("create " + path, error.value());
    return {};
  }
  static Result<void> move(const std::string& from, const std::string& to) {
    std::error_code error;
    fs::rename(from, to, error);
    if (error) return fail_errno("rename " + from, error.value());
    return {};
  }

  static constexpr std::size_t kOpenTables = 256;
  static constexpr std::uint64_t kLogNumbers = 100'000;

  const std::string directory_;
  const std::string lost_;
  const std::unique_ptr<rocksdb::Env> env_;
  std::vector<SavedTable> saved_;
  std::vector<std::string> lines_;
};

}  // namespace

Result<std::vector<std::string>> repair_files(const std::string& directory) {
  return Repair(directory).run();
}

}  // namespace thaw
