#pragma once

#include <memory>

namespace rocksdb {
class Env;
class Status;
}  // namespace rocksdb

namespace thaw {

/// RocksDB's default environment, but that
/// * reads of table files obey OnlyCachedReads, with preadv2(RWF_NOWAIT): on a file system without
///   it every such read is cold. (RocksDB's own way, a read tier without I/O, is not to be trusted
///   in Debian's 7.8 and knows no page cache.) A table takes one descriptor;
/// * the errno of what fails is kept, which a status does not tell but in words;
/// * a quota that is used up is a full disk;
/// * where there are RecoveredLogs, a damaged log is not opened.
std::unique_ptr<rocksdb::Env> create_store_env();

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

/// The errno of the last call for a file that has failed on this thread since the last time this
/// was called; 0 when none has. A file that is not there is no failure.
int take_file_error();

}  // namespace thaw
