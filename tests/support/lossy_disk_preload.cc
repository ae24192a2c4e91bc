/// lossy-disk.so, loaded into a program by LD_PRELOAD: a disk that keeps what was synced. The
/// program works in one directory, which is what the kernel would show it; a second one gets what
/// a disk would have by then. LossyDisk (lossy_disk.h) sets it up and cuts the power.
///
/// THAW_DISK_VIEW   the directory that the program works in
/// THAW_DISK        the directory that is the disk; both begin alike
/// THAW_DISK_NAMES  when new, changed and removed names reach the disk: "now" or "synced"
/// THAW_DISK_KILL   where the process dies, as KillPoint reads it. Kinds of files are log, table,
///                  manifest, current, options, other and directory; operations are create, write,
///                  sync, rename, unlink
/// THAW_DISK_FULL   while this file exists, writes fail with ENOSPC, the first of them half done
/// THAW_DISK_BAD    while this file exists, every third read of a table fails with EIO
///
/// Any thread. Files that are mapped to be written, or written by other calls than those below, are
/// not seen; RocksDB does neither.

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "tests/support/disk_mirror.h"
#include "tests/support/kill_point.h"

namespace {

using thaw::test::DiskMirror;
using thaw::test::KillPoint;
using thaw::test::MirroredFile;

/// What comes next under these names: the C library.
struct Library {
  Library() {
    find(open, "open");
    find(close, "close");
    find(fclose, "fclose");
    find(write, "write");
    find(pwrite, "pwrite");
    find(pread, "pread");
    find(preadv2, "preadv2");
    find(ftruncate, "ftruncate");
    find(fsync, "fsync");
    find(fdatasync, "fdatasync");
    find(rename, "rename");
    find(link, "link");
    find(unlink, "unlink");
    find(mkdir, "mkdir");
    find(rmdir, "rmdir");
  }
  int (*open)(const char*, int, ...);
  int (*close)(int);
  int (*fclose)(FILE*);
  ssize_t (*write)(int, const void*, size_t);
  ssize_t (*pwrite)(int, const void*, size_t, off_t);
  ssize_t (*pread)(int, void*, size_t, off_t);
  ssize_t (*preadv2)(int, const iovec*, int, off_t, int);
  int (*ftruncate)(int, off_t);
  int (*fsync)(int);
  int (*fdatasync)(int);
  int (*rename)(const char*, const char*);
  int (*link)(const char*, const char*);
  int (*unlink)(const char*);
  int (*mkdir)(const char*, mode_t);
  int (*rmdir)(const char*);

 private:
  template <typename Function>
  static void find(Function& function, const char* name) {
    // SAFETY: POSIX lets dlsym's object pointer be a function; these have the types of the names.
    function = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
    CHECK(function != nullptr);
  }
};
const Library& library() {
  static const Library found;
  return found;
}

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// What a file is to RocksDB.
std::string kind_of(std::string_view name) {
  name.remove_prefix(name.rfind('/') + 1);
  if (name.ends_with(".log")) return "log";
  if (name.ends_with(".sst")) return "table";
  if (name.starts_with("MANIFEST-")) return "manifest";
  if (name == "CURRENT") return "current";
  if (name.starts_with("OPTIONS-")) return "options";
  return "other";
}

/// The program's directory, its open files, and what befalls them. Locked by whoever calls.
class LossyDisk {
 public:
  LossyDisk()
      : view_(variable("THAW_DISK_VIEW")),
        full_file_(variable("THAW_DISK_FULL")),
        bad_file_(variable("THAW_DISK_BAD")),
        kill_(variable("THAW_DISK_KILL")),
        mirror_(view_, variable("THAW_DISK"),
                variable("THAW_DISK_NAMES") == "synced" ? DiskMirror::Names::kWhenSynced
                                                        : DiskMirror::Names::kAtOnce) {
    CHECK(!view_.empty() && view_.front() == '/');
  }
  std::recursive_mutex mutex;  // what is called with it may come back by another wrapper

  /// The path below the directory, "" for itself; nothing when it is somewhere else.
  std::optional<std::string> name_of(const char* path) const {
    std::string clean;
    for (const char* at = path; *at != '\0'; ++at) {
      if (*at != '/' || clean.empty() || clean.back() != '/') clean.push_back(*at);
    }
    if (clean == view_) return "";
    if (!clean.starts_with(view_ + "/")) return std::nullopt;
    return clean.substr(view_.size() + 1);
  }

  int open(const std::string& name, const char* path, int flags, mode_t mode) {
    const bool existed = ::access(path, F_OK) == 0;
    const bool creates = !existed && (flags & O_CREAT) != 0;
    const std::string kind = kind_of(name);
    const auto phase = creates ? kill_.arrive(kind, "create") : std::nullopt;
    const int fd = library().open(path, flags, mode);
    if (fd < 0) return fd;
    struct stat status{};
    CHECK(::fstat(fd, &status) == 0);
    if (S_ISDIR(status.st_mode)) {
      open_[fd] = {"directory", nullptr};
      return fd;
    }
    auto file =
        mirror_.open(name, creates ? DiskMirror::Opened::kCreated : DiskMirror::Opened::kFound);
    if ((flags & O_TRUNC) != 0) DiskMirror::change(*file, 0);
    open_[fd] = {kind, std::move(file)};
    if (phase) KillPoint::die();
    return fd;
  }
  void closed(int fd) { open_.erase(fd); }

  bool has(int fd) const { return open_.contains(fd); }

  /// Writes, by `write`, which takes how many bytes.
  template <typename Write>
  ssize_t write(int fd, off_t offset, size_t size, const Write& write) {
    const auto& [kind, file] = open_.at(fd);
    const auto phase = kill_.arrive(kind, "write");
    const bool full = !full_file_.empty() && ::access(full_file_.c_str(), F_OK) == 0;
    if (full && (was_full_ || size < 2)) {
      errno = ENOSPC;
      return -1;
    }
    was_full_ = full;
    const bool half = full || phase == KillPoint::Phase::kHalf;
    const ssize_t written = write(half ? size / 2 : size);
    if (written > 0) DiskMirror::change(*file, static_cast<std::uint64_t>(offset));
    if (phase) KillPoint::die();
    return written;
  }

  int truncate(int fd, off_t size) {
    const int result = library().ftruncate(fd, size);
    if (result == 0) DiskMirror::change(*open_.at(fd).file, static_cast<std::uint64_t>(size));
    return result;
  }

  int sync(int fd) {
    const auto& [kind, file] = open_.at(fd);
    const auto phase = kill_.arrive(kind, "sync");
    if (file == nullptr) {
      mirror_.sync_names();
    } else {
      mirror_.sync(*file, phase == KillPoint::Phase::kHalf ? DiskMirror::Amount::kHalf
                                                           : DiskMirror::Amount::kAll);
    }
    if (phase) KillPoint::die();
    return 0;
  }

  /// A change of names that counts as `operation` of the file `name`: `make` makes it, `tell` tells
  /// the mirror.
  template <typename Make, typename Tell>
  int change_names(const std::string& name, const char* operation, const Make& make,
                   const Tell& tell) {
    const auto phase = kill_.arrive(kind_of(name), operation);
    const int result = make();
    if (result == 0) tell(mirror_);
    if (phase) KillPoint::die();
    return result;
  }

  bool read_fails(int fd) {
    if (bad_file_.empty() || ::access(bad_file_.c_str(), F_OK) != 0) return false;
    const std::lock_guard lock(mutex);
    const auto found = open_.find(fd);
    return found != open_.end() && found->second.kind == "table" && ++reads_ % 3 == 0;
  }

 private:
  struct OpenFile {
    std::string kind;
    std::shared_ptr<MirroredFile> file;  // nothing for a directory
  };

  const std::string view_;
  const std::string full_file_;
  const std::string bad_file_;
  KillPoint kill_;
  DiskMirror mirror_;
  std::map<int, OpenFile> open_;
  bool was_full_ = false;
  unsigned reads_ = 0;
};

/// Never destroyed: threads may write until the process has ended.
LossyDisk& disk() {
  static LossyDisk* const made = std::make_unique<LossyDisk>().release();
  return *made;
}

int open_file(const char* path, int flags, mode_t mode) {
  const auto name = disk().name_of(path);
  if (!name) return library().open(path, flags, mode);
  const std::lock_guard lock(disk().mutex);
  return disk().open(*name, path, flags, mode);
}

int sync_file(int fd, int (*real)(int)) {
  const std::lock_guard lock(disk().mutex);
  return disk().has(fd) ? disk().sync(fd) : real(fd);
}

/// One path, and what `make` of it means to the mirror.
template <typename Tell>
int change_name(const char* path, const char* operation, int (*make)(const char*),
                const Tell& tell) {
  const auto name = disk().name_of(path);
  if (!name) return make(path);
  const std::lock_guard lock(disk().mutex);
  return disk().change_names(
      *name, operation, [&] { return make(path); },
      [&](DiskMirror& mirror) { tell(mirror, *name); });
}

/// Two paths of which both or neither are in the directory.
template <typename Tell>
int change_two_names(const char* from, const char* to, const char* operation,
                     int (*make)(const char*, const char*), const Tell& tell) {
  const auto from_name = disk().name_of(from);
  const auto to_name = disk().name_of(to);
  if (!from_name || !to_name) return make(from, to);
  const std::lock_guard lock(disk().mutex);
  return disk().change_names(
      *to_name, operation, [&] { return make(from, to); },
      [&](DiskMirror& mirror) { tell(mirror, *from_name, *to_name); });
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open_file(path, flags, mode);
}
int open64(const char* path, int flags, ...) __attribute__((alias("open")));

int close(int fd) {
  const std::lock_guard lock(disk().mutex);
  disk().closed(fd);
  return library().close(fd);
}
int fclose(FILE* file) {
  const std::lock_guard lock(disk().mutex);
  disk().closed(::fileno(file));
  return library().fclose(file);
}

ssize_t write(int fd, const void* bytes, size_t size) {
  std::unique_lock lock(disk().mutex);
  if (!disk().has(fd)) {
    lock.unlock();  // a pipe may block
    return library().write(fd, bytes, size);
  }
  return disk().write(fd, ::lseek(fd, 0, SEEK_CUR), size,
                      [&](size_t n) { return library().write(fd, bytes, n); });
}
ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  const std::lock_guard lock(disk().mutex);
  if (!disk().has(fd)) return library().pwrite(fd, bytes, size, offset);
  return disk().write(fd, offset, size,
                      [&](size_t n) { return library().pwrite(fd, bytes, n, offset); });
}
ssize_t pread(int fd, void* to, size_t size, off_t offset) {
  if (!disk().read_fails(fd)) return library().pread(fd, to, size, offset);
  errno = EIO;
  return -1;
}
ssize_t preadv2(int fd, const iovec* to, int count, off_t offset, int flags) {
  if (!disk().read_fails(fd)) return library().preadv2(fd, to, count, offset, flags);
  errno = EIO;
  return -1;
}
int ftruncate(int fd, off_t size) noexcept {
  const std::lock_guard lock(disk().mutex);
  return disk().has(fd) ? disk().truncate(fd, size) : library().ftruncate(fd, size);
}

int fsync(int fd) { return sync_file(fd, library().fsync); }
int fdatasync(int fd) { return sync_file(fd, library().fdatasync); }

int rename(const char* from, const char* to) noexcept {
  return change_two_names(
      from, to, "rename", library().rename,
      [](DiskMirror& mirror, const auto& a, const auto& b) { mirror.rename(a, b); });
}
int link(const char* from, const char* to) noexcept {
  return change_two_names(
      from, to, "create", library().link,
      [](DiskMirror& mirror, const auto& a, const auto& b) { mirror.link(a, b); });
}
int unlink(const char* path) noexcept {
  return change_name(path, "unlink", library().unlink,
                     [](DiskMirror& mirror, const auto& name) { mirror.unlink(name); });
}
int rmdir(const char* path) noexcept {
  return change_name(path, "unlink", library().rmdir,
                     [](DiskMirror& mirror, const auto& name) { mirror.remove_directory(name); });
}
int mkdir(const char* path, mode_t mode) noexcept {
  const auto name = disk().name_of(path);
  if (!name) return library().mkdir(path, mode);
  const std::lock_guard lock(disk().mutex);
  return disk().change_names(
      *name, "create", [&] { return library().mkdir(path, mode); },
      [&](DiskMirror& mirror) { mirror.make_directory(*name); });
}

}  // extern "C"
