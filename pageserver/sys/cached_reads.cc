#include "pageserver/sys/cached_reads.h"

#include <span>

#include <fcntl.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <sys/uio.h>

#include "base/check.h"
#include "base/unique_fd.h"

namespace thaw {

namespace {

using rocksdb::IOStatus;

thread_local bool only_cached = false;

class TableFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  /// `again` is the same file as `file`, which does not show its descriptor.
  TableFile(std::unique_ptr<rocksdb::FSRandomAccessFile> file, UniqueFd again)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), again_(std::move(again)) {}

  IOStatus Read(std::uint64_t offset, std::size_t size, const rocksdb::IOOptions& options,
                rocksdb::Slice* result, char* scratch,
                rocksdb::IODebugContext* dbg) const override {
    if (!only_cached) {
      return FSRandomAccessFileOwnerWrapper::Read(offset, size, options, result, scratch, dbg);
    }
    const iovec to{scratch, size};
    const ssize_t n = ::preadv2(again_.get(), &to, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (n != static_cast<ssize_t>(size)) return IOStatus::Busy("not in memory");
    *result = rocksdb::Slice(scratch, size);
    return IOStatus::OK();
  }
  IOStatus MultiRead(rocksdb::FSReadRequest* requests, std::size_t count,
                     const rocksdb::IOOptions& options, rocksdb::IODebugContext* dbg) override {
    for (rocksdb::FSReadRequest& request : std::span(requests, count)) {
      request.status =
          Read(request.offset, request.len, options, &request.result, request.scratch, dbg);
    }
    return IOStatus::OK();
  }

 private:
  const UniqueFd again_;
};

class CachingFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "ThawCachingFileSystem"; }

  IOStatus NewRandomAccessFile(const std::string& path, const rocksdb::FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               rocksdb::IODebugContext* dbg) override {
    IOStatus status = FileSystemWrapper::NewRandomAccessFile(path, options, result, dbg);
    if (!status.ok()) return status;
    UniqueFd again(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!again.valid()) return IOStatus::IOError("cannot be opened twice", path);
    *result = std::make_unique<TableFile>(std::move(*result), std::move(again));
    return status;
  }
};

}  // namespace

OnlyCachedReads::OnlyCachedReads(bool on) {
  CHECK(!only_cached);
  only_cached = on;
}
OnlyCachedReads::~OnlyCachedReads() { only_cached = false; }

bool is_cold(const rocksdb::Status& status) { return status.IsBusy(); }

std::unique_ptr<rocksdb::Env> create_caching_env() {
  return rocksdb::NewCompositeEnv(
      std::make_shared<CachingFileSystem>(rocksdb::FileSystem::Default()));
}

}  // namespace thaw
