#include "pageserver/sys/store_files.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/unique_fd.h"
#include "pageserver/sys/recovered_logs.h"

namespace thaw {

namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

thread_local bool only_cached = false;
thread_local int file_error = 0;

IOStatus failed(const char* what, const std::string& path, int error_number) {
  file_error = error_number;
  if (error_number == ENOENT) return IOStatus::PathNotFound(what, path);
  return IOStatus::IOError(what, path);
}

/// Calls what returns an IOStatus of RocksDB's own file system, and keeps errno where it fails.
template <typename Call>
IOStatus watched(Call call) {
  errno = 0;
  IOStatus status = call();
  const int error_number = errno;
  if (!status.IsIOError() || status.subcode() == IOStatus::kPathNotFound) return status;
  file_error = error_number;
  if (error_number == EDQUOT) return IOStatus::NoSpace(status.ToString());
  return status;
}

class TableFile final : public rocksdb::FSRandomAccessFile {
 public:
  TableFile(std::string path, UniqueFd file) : path_(std::move(path)), file_(std::move(file)) {}

  IOStatus Read(std::uint64_t offset, std::size_t size, const IOOptions&, Slice* result,
                char* scratch, IODebugContext*) const override {
    std::size_t filled = 0;
    while (filled < size) {
      const iovec to{scratch + filled, size - filled};
      const ssize_t n =
          only_cached
              ? ::preadv2(file_.get(), &to, 1, static_cast<off_t>(offset + filled), RWF_NOWAIT)
              : ::pread(file_.get(), to.iov_base, to.iov_len, static_cast<off_t>(offset + filled));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && !only_cached) return failed("reading", path_, errno);
      if (n <= 0) break;
      filled += static_cast<std::size_t>(n);
    }
    // A file that ends early is damaged; whether it does is not seen in memory.
    if (filled < size && only_cached) return IOStatus::Busy("not in memory");
    *result = Slice(scratch, filled);
    return IOStatus::OK();
  }
  IOStatus Prefetch(std::uint64_t offset, std::size_t size, const IOOptions&,
                    IODebugContext*) override {
    // A hint: without it the read waits.
    static_cast<void>(::readahead(file_.get(), static_cast<off_t>(offset), size));
    return IOStatus::OK();
  }
  void Hint(AccessPattern pattern) override {
    // Compactions read in order; all others a block here and there.
    const int advice = pattern == kRandom       ? POSIX_FADV_RANDOM
                       : pattern == kSequential ? POSIX_FADV_SEQUENTIAL
                                                : POSIX_FADV_NORMAL;
    static_cast<void>(::posix_fadvise(file_.get(), 0, 0, advice));
  }

 private:
  const std::string path_;
  const UniqueFd file_;
};

class WatchedWrites final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  explicit WatchedWrites(std::unique_ptr<rocksdb::FSWritableFile> file)
      : FSWritableFileOwnerWrapper(std::move(file)) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* dbg) override {
    return watched([&] { return FSWritableFileOwnerWrapper::Append(data, options, dbg); });
  }
  IOStatus Append(const Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& verification, IODebugContext* dbg) override {
    return watched(
        [&] { return FSWritableFileOwnerWrapper::Append(data, options, verification, dbg); });
  }
  IOStatus Close(const IOOptions& options, IODebugContext* dbg) override {
    return watched([&] { return FSWritableFileOwnerWrapper::Close(options, dbg); });
  }
  IOStatus Flush(const IOOptions& options, IODebugContext* dbg) override {
    return watched([&] { return FSWritableFileOwnerWrapper::Flush(options, dbg); });
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* dbg) override {
    return watched([&] { return FSWritableFileOwnerWrapper::Sync(options, dbg); });
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* dbg) override {
    return watched([&] { return FSWritableFileOwnerWrapper::Fsync(options, dbg); });
  }
};

class StoreFiles final : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "ThawStoreFiles"; }

  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions&,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               IODebugContext*) override {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return failed("opening", path, errno);
    *result = std::make_unique<TableFile>(path, std::move(file));
    return IOStatus::OK();
  }
  IOStatus NewSequentialFile(const std::string& path, const FileOptions& options,
                             std::unique_ptr<rocksdb::FSSequentialFile>* result,
                             IODebugContext* dbg) override {
    if (RecoveredLogs* const logs = RecoveredLogs::current(); logs && path.ends_with(".log")) {
      const auto examined = logs->examine(path);
      if (!examined && examined.error().code() == ErrorCode::kCorrupt) {
        return IOStatus::Corruption(examined.error().context());
      }
      if (!examined) return failed("reading", path, examined.error().error_number());
    }
    return watched(
        [&] { return FileSystemWrapper::NewSequentialFile(path, options, result, dbg); });
  }
  IOStatus NewWritableFile(const std::string& path, const FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* dbg) override {
    return watch_writes(result, watched([&] {
                          return FileSystemWrapper::NewWritableFile(path, options, result, dbg);
                        }));
  }
  IOStatus ReopenWritableFile(const std::string& path, const FileOptions& options,
                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                              IODebugContext* dbg) override {
    return watch_writes(result, watched([&] {
                          return FileSystemWrapper::ReopenWritableFile(path, options, result, dbg);
                        }));
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* result,
                        IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::NewDirectory(path, options, result, dbg); });
  }
  IOStatus GetChildren(const std::string& path, const IOOptions& options,
                       std::vector<std::string>* result, IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::GetChildren(path, options, result, dbg); });
  }
  IOStatus GetFileSize(const std::string& path, const IOOptions& options, std::uint64_t* size,
                       IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::GetFileSize(path, options, size, dbg); });
  }
  IOStatus FileExists(const std::string& path, const IOOptions& options,
                      IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::FileExists(path, options, dbg); });
  }
  IOStatus CreateDirIfMissing(const std::string& path, const IOOptions& options,
                              IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::CreateDirIfMissing(path, options, dbg); });
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::RenameFile(from, to, options, dbg); });
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::LinkFile(from, to, options, dbg); });
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions& options,
                      IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::DeleteFile(path, options, dbg); });
  }
  IOStatus LockFile(const std::string& path, const IOOptions& options, rocksdb::FileLock** lock,
                    IODebugContext* dbg) override {
    return watched([&] { return FileSystemWrapper::LockFile(path, options, lock, dbg); });
  }

 private:
  static IOStatus watch_writes(std::unique_ptr<rocksdb::FSWritableFile>* file, IOStatus status) {
    if (status.ok()) *file = std::make_unique<WatchedWrites>(std::move(*file));
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

int take_file_error() { return std::exchange(file_error, 0); }

std::unique_ptr<rocksdb::Env> create_store_env() {
  return rocksdb::NewCompositeEnv(std::make_shared<StoreFiles>(rocksdb::FileSystem::Default()));
}

}  // namespace thaw
