#include "pageserver/sys/rocks_files.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include <fmt/ranges.h>
#include <rocksdb/db.h>
#include <rocksdb/sst_file_reader.h>

#include "base/file.h"
#include "pageserver/sys/rocks_options.h"
#include "pageserver/sys/store_files.h"

namespace thaw {

namespace {

using rocksdb::Status;

constexpr std::size_t kMostCurrentBytes = 256;

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
  if (auto current = check_current(directory)) {
    damaged.push_back(*std::move(current));
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

Result<bool> has_store_files(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    if (name == "CURRENT" || name.starts_with("MANIFEST-") || name.ends_with(".sst")) return true;
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
  const bool lacks_current = status.IsInvalidArgument() && check_current(directory);
  if (status.IsInvalidArgument() && !lacks_current) {
    return fail(ErrorCode::kBadVersion, "the store in {} is of another version: {}", directory,
                status.ToString());
  }
  if (!status.IsCorruption() && !status.IsPathNotFound() && !lacks_current) {
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
