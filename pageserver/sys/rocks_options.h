#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "pageserver/sys/rocks_database.h"

namespace rocksdb {
struct ColumnFamilyDescriptor;
struct DBOptions;
struct Options;
}  // namespace rocksdb

namespace thaw {

/// In the order in which they are opened.
inline constexpr std::array<std::pair<const char*, Family>, 6> kFamilies{
    {{"default", Family::kDefault},
     {"chunk", Family::kChunk},
     {"hash", Family::kHash},
     {"snapshot", Family::kSnapshot},
     {"meta", Family::kMeta},
     {"pack", Family::kPack}}};

/// What RocksDB's threads say of the last failure that has stopped its writing. Any thread.
struct BackgroundFailure {
  std::atomic<bool> must_resume = false;
  std::atomic<int> error_number = 0;
};

/// How Thaw has RocksDB. `env` must outlive whatever is opened with these.
std::vector<rocksdb::ColumnFamilyDescriptor> column_families();
/// `open_tables` is how many table files may be open at one time, a descriptor each.
rocksdb::DBOptions database_options(rocksdb::Env& env, std::size_t open_tables,
                                    const std::shared_ptr<BackgroundFailure>& failure);
/// For a single table file, whatever family it is of.
rocksdb::Options table_options(rocksdb::Env& env);

/// What an errno says of the store's surroundings; nothing when it may be the store itself.
std::optional<ErrorCode> code_of_surroundings(int error_number);

/// The failure that a status stands for. An input or output error is told by its errno: that of
/// the calling thread's last call, or `background` if another thread met it. No word is read.
std::unexpected<Error> store_failure(const rocksdb::Status& status, const char* what,
                                     int background = 0);

}  // namespace thaw
