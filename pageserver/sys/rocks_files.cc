#include "pageserver/sys/rocks_files.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include <fmt/ranges.h>
#include <rocksdb/db.h>
#include <rocksdb/sst_file_reader.h>

#include "base/file.h"
#include "pageserver/store_id.h"
#include "pageserver/sys/recovered_logs.h"
#include "pageserver/sys/rocks_options.h"
#include "pageserver/sys/store_files.h"

namespace thaw {

namespace {

using rocksdb::Status;

constexpr std::size_t kMostCurrentBytes = 256;
constexpr std::size_t kMostLookedUp = 1000;  // entries of a table
constexpr std::size_t kTables = 256;         // open at a time

/// A store that has served has all of its families, but for the one that its first version lacked.
/// Of a manifest that lost its end RocksDB makes those that it misses anew and empty, and deletes
/// the tables and logs of the others. Nothing when the manifest names them, or cannot be read.
std::optional<DamagedFile> check_families(const std::string& directory) {
  // One whose making was interrupted.
  if (tables_in(directory).empty() && !has_store_id(directory)) return std::nullopt;
  const auto env = create_store_env();
  std::vector<std::string> families;
  if (!rocksdb::DB::ListColumnFamilies(table_options(*env), directory, &families).ok()) {
    return std::nullopt;
  }
  for (const auto& [name, family] : kFamilies) {
    const bool named = std::ranges::find(families, name) != families.end();
    if (named || family == Family::kPack) continue;
    const std::string manifest = directory + "/MANIFEST";
    return DamagedFile{manifest, fmt::format("it has lost its end, where it names \"{}\"", name)};
  }
  return std::nullopt;
}

/// Whether the manifest ends in the midst of a record: after a crash, or cut.
bool is_torn(const std::string& directory) {
  const auto text = read_text_file(directory + "/CURRENT", kMostCurrentBytes);
  if (!text || text->empty()) return false;
  RecoveredLogs logs;
  return logs.examine(directory + "/" + text->substr(0, text->size() - 1)) && logs.torn();
}

/// Whether most of a table's entries are nowhere else: then it was in use.
bool is_missed(rocksdb::DB& db, const std::vector<rocksdb::ColumnFamilyHandle*>& families,
               rocksdb::SstFileReader& table) {
  const std::string family = table.GetTableProperties()->column_family_name;
  const auto handle =
      std::ranges::find(families, family, [](const auto* each) { return each->GetName(); });
  if (handle == families.end()) return false;
  const std::unique_ptr<rocksdb::Iterator> at(table.NewIterator(rocksdb::ReadOptions()));
  std::size_t looked_up = 0;
  std::size_t missing = 0;
  rocksdb::PinnableSlice value;
  for (at->SeekToFirst(); at->Valid() && looked_up < kMostLookedUp; at->Next(), ++looked_up) {
    if (db.Get(rocksdb::ReadOptions(), *handle, at->key(), &value).IsNotFound()) ++missing;
    value.Reset();
  }
  return 2 * missing > looked_up;
}

/// RocksDB deletes the tables that no manifest names. After a crash they are what was being
/// written, and all of it is in logs or other tables; not so where a manifest was cut.
std::optional<DamagedFile> check_tables(const std::string& directory) {
  if (!is_torn(directory)) return std::nullopt;
  const auto env = create_store_env();
  const auto options = database_options(*env, kTables, std::make_shared<BackgroundFailure>());
  rocksdb::DB* opened = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  // Where it does not open, its owner's attempt says why.
  if (!rocksdb::DB::OpenForReadOnly(options, directory, column_families(), &families, &opened)
           .ok()) {
    return std::nullopt;
  }
  const std::unique_ptr<rocksdb::DB> db(opened);
  std::vector<rocksdb::LiveFileMetaData> live;
  db->GetLiveFilesMetaData(&live);
  std::optional<DamagedFile> damaged;
  for (const std::string& path : tables_in(directory)) {
    const std::string name = std::filesystem::path(path).filename();
    const bool named = std::ranges::any_of(live, [&](const rocksdb::LiveFileMetaData& file) {
      return std::filesystem::path(file.name).filename() == name;
    });
    rocksdb::SstFileReader table(table_options(*env));
    if (named || !table.Open(path).ok() || !is_missed(*db, families, table)) continue;
    damaged = DamagedFile{directory + "/MANIFEST",
                          fmt::format("it has lost its end, where it names {}", name)};
    break;
  }
  for (rocksdb::ColumnFamilyHandle* const family : families) db->DestroyColumnFamilyHandle(family);
  return damaged;
}

std::optional<DamagedFile> check_manifest_end(const std::string& directory) {
  auto damaged = check_families(directory);
  return damaged ? damaged : check_tables(directory);
}

/// CURRENT has the manifest's name, and a newline after it. Nothing when it is as it should be.
std::optional<DamagedFile> check_current(const std::string& directory) {
  const std::string path = directory + "/CURRENT";
  const auto text = read_text_file(path, kMostCurrentBytes);
  if (!text) return DamagedFile{path, text.error().message()};
  if (!text->starts_with("MANIFEST-") || !text->ends_with('\n')) {
    return DamagedFile{path, "it has no manifest's name"};
  }
  const std::string manifest = directory + "/" + text->substr(0, text->size() - 1);
  std::error_code ignored;
  if (std::filesystem::exists(manifest, ignored)) return std::nullopt;
  return DamagedFile{manifest, "it is missing, and CURRENT names it"};
}

/// What a store is found by.
std::optional<DamagedFile> check_names(const std::string& directory) {
  auto damaged = check_current(directory);
  return damaged ? damaged : check_manifest_end(directory);
}

}  // namespace

std::string DamagedFile::text() const {
  return fmt::format("{} is damaged: {}", std::filesystem::path(path).filename().string(), why);
}

std::vector<DamagedFile> damaged_tables(std::span<const std::string> paths, Reading reading) {
  const auto env = create_store_env();
  std::vector<DamagedFile> damaged;
  for (const std::string& path : paths) {
    rocksdb::SstFileReader table(table_options(*env));
    Status status = table.Open(path);
    if (status.ok() && reading == Reading::kAll) status = table.VerifyChecksum();
    if (!status.ok()) damaged.push_back({path, status.ToString()});
  }
  return damaged;
}

std::vector<std::string> tables_in(const std::string& directory) {
  std::vector<std::string> tables;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    if (entry.path().extension() == ".sst") tables.push_back(entry.path());
  }
  std::ranges::sort(tables);
  return tables;
}

std::vector<DamagedFile> damaged_files(const std::string& directory, Reading reading) {
  std::vector<DamagedFile> damaged;
  if (auto names = check_names(directory)) {
    damaged.push_back(*std::move(names));
  } else {
    const auto env = create_store_env();
    std::vector<std::string> families;
    const Status status =
        rocksdb::DB::ListColumnFamilies(table_options(*env), directory, &families);
    if (!status.ok()) damaged.push_back({directory + "/MANIFEST", status.ToString()});
  }
  std::ranges::move(damaged_tables(tables_in(directory), reading), std::back_inserter(damaged));
  return damaged;
}

Result<void> check_manifest(const std::string& directory) {
  const auto damaged = check_manifest_end(directory);
  if (!damaged) return {};
  return fail(ErrorCode::kCorrupt, "opening the store in {}: {}", directory, damaged->text());
}

Result<bool> has_store_files(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    if (name == "CURRENT" || name == kStoreIdFile) return true;
    if (name.ends_with(".sst") || name.ends_with(".log")) return true;
  }
  if (!error || error.value() == ENOENT) return false;
  return fail_errno("reading the directory " + directory, error.value());
}

/// What the surroundings do not allow is said before what may follow from it.
std::unexpected<Error> open_failure(const Status& status, const std::string& directory) {
  const int error_number = take_file_error();
  // Of LOCK; the second is RocksDB's own word for one that this process has.
  if (error_number == EAGAIN || error_number == ENOLCK) {
    return fail(ErrorCode::kBusy, "{} is in use by another process", directory);
  }
  if (const auto code = code_of_surroundings(error_number)) {
    return fail(*code, "opening the store in {}: {}", directory, status.ToString());
  }
  const bool lacks_names = status.IsInvalidArgument() && check_names(directory);
  if (status.IsInvalidArgument() && !lacks_names) {
    return fail(ErrorCode::kBadVersion, "the store in {} is of another version: {}", directory,
                status.ToString());
  }
  if (!status.IsCorruption() && !status.IsPathNotFound() && !lacks_names) {
    return store_failure(status, fmt::format("opening the store in {}", directory).c_str());
  }
  std::vector<std::string> lines;
  for (const DamagedFile& file : damaged_files(directory, Reading::kEnds)) {
    lines.push_back(file.text());
  }
  if (lines.empty()) lines.push_back(status.ToString());
  return fail(ErrorCode::kCorrupt, "opening the store in {}: {}", directory,
              fmt::join(lines, "; "));
}

}  // namespace thaw
