#include "pageserver/sys/rocks_options.h"

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>

#include "base/log.h"
#include "pageserver/sys/store_files.h"

namespace thaw {

namespace {

using rocksdb::Status;

constexpr std::size_t kBlockCacheBytes = 64u << 20;

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

/// Whether trying again later may do. RocksDB (7.8) knows this of a full disk alone, and takes all
/// others for the end of writing until the store is opened again.
bool may_pass(int error_number) {
  return error_number == EMFILE || error_number == ENFILE || error_number == ENOMEM ||
         error_number == EDQUOT;
}

/// Leaves getting over a failure to the next write. When space runs out once more while RocksDB
/// (7.8) recovers from a full disk by itself, it refuses all writes until it is opened again. It
/// would do so as well when a compaction meets a damaged block; what is there can be read all the
/// same, and pushes go on, which may bring the damaged pages again.
class Failures final : public rocksdb::EventListener {
 public:
  explicit Failures(std::shared_ptr<BackgroundFailure> failure) : failure_(std::move(failure)) {}
  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, Status* error) override {
    const int error_number = take_file_error();
    if (reason == rocksdb::BackgroundErrorReason::kCompaction && error->IsCorruption()) {
      // RocksDB tries it again every second.
      if (!damage_said_.exchange(true)) {
        log_error("files of the store are damaged: {}; run a scrub", error->ToString());
      }
      *error = Status::OK();
      return;
    }
    if (may_pass(error_number) && error->severity() > Status::Severity::kHardError) {
      *error = Status(*error, Status::Severity::kHardError);
    }
    failure_->error_number = error_number;
    failure_->must_resume = true;
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, Status, bool* automatic) override {
    *automatic = false;
  }

 private:
  const std::shared_ptr<BackgroundFailure> failure_;
  std::atomic<bool> damage_said_ = false;
};

/// RocksDB keeps ten of the files that it may open for other things, and takes fewer than this for
/// this.
constexpr std::size_t kFilesBesideTables = 10;

}  // namespace

std::vector<rocksdb::ColumnFamilyDescriptor> column_families() {
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(kFamilies.size());
  for (const auto& [name, family] : kFamilies) {
    descriptors.emplace_back(name, family_options(family, cache));
  }
  return descriptors;
}

rocksdb::DBOptions database_options(rocksdb::Env& env, std::size_t open_tables,
                                    const std::shared_ptr<BackgroundFailure>& failure) {
  rocksdb::DBOptions options;
  options.env = &env;
  options.info_log = std::make_shared<StoreLog>();
  options.max_open_files =
      static_cast<int>(std::min<std::size_t>(open_tables, 1u << 22) + kFilesBesideTables);
  // Each part of the cache of tables keeps one at least: few tables, few parts.
  options.table_cache_numshardbits = open_tables < 1024 ? 1 : 6;
  // By this thread, whose errno is known.
  options.max_file_opening_threads = 1;
  options.avoid_flush_during_shutdown = true;  // see RocksDatabase::fill_memtable()
  options.listeners.push_back(std::make_shared<Failures>(failure));
  // A torn tail of the log is the normal end after a crash; anything else refuses to open.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  return options;
}

rocksdb::Options table_options(rocksdb::Env& env) {
  rocksdb::Options options(rocksdb::DBOptions{}, family_options(Family::kDefault, nullptr));
  options.env = &env;
  options.info_log = std::make_shared<StoreLog>();
  return options;
}

std::optional<ErrorCode> code_of_surroundings(int error_number) {
  if (error_number == 0) return std::nullopt;
  const ErrorCode code = fail_errno({}, error_number).error().code();
  switch (code) {
    case ErrorCode::kPermission:
    case ErrorCode::kReadOnly:
    case ErrorCode::kNoSpace:
    case ErrorCode::kNoMemory:
    case ErrorCode::kNoDescriptors:
      return code;
    default:
      return std::nullopt;
  }
}

std::unexpected<Error> store_failure(const Status& status, const char* what, int background) {
  const int own = take_file_error();
  const int error_number = own != 0 ? own : background;
  ErrorCode code = ErrorCode::kIo;
  if (status.IsIOError()) code = code_of_surroundings(error_number).value_or(code);
  if (status.IsNotFound()) code = ErrorCode::kNotFound;
  if (status.IsCorruption()) code = ErrorCode::kCorrupt;
  if (status.IsNoSpace()) code = ErrorCode::kNoSpace;
  return fail(code, "{}: {}", what, status.ToString());
}

}  // namespace thaw
