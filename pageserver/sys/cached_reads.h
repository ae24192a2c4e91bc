#pragma once

#include <memory>

namespace rocksdb {
class Env;
class Status;
}  // namespace rocksdb

namespace thaw {

/// While one with `on` lives, reads of table files by this thread come from memory (RocksDB's
/// block cache or the kernel's page cache) or fail with a status that is_cold(). Does not nest.
class OnlyCachedReads {
 public:
  explicit OnlyCachedReads(bool on);
  OnlyCachedReads(const OnlyCachedReads&) = delete;
  OnlyCachedReads& operator=(const OnlyCachedReads&) = delete;
  ~OnlyCachedReads();
};

bool is_cold(const rocksdb::Status& status);

/// RocksDB's default environment, whose table files obey OnlyCachedReads: they are then read with
/// preadv2(RWF_NOWAIT). On a file system without it every such read is cold. (RocksDB's own way, a
/// read tier without I/O, is not to be trusted in Debian's 7.8 and knows no page cache.)
std::unique_ptr<rocksdb::Env> create_caching_env();

}  // namespace thaw
