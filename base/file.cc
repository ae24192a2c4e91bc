#include "base/file.h"

#include <cerrno>
#include <filesystem>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace thaw {

Result<UniqueFd> duplicate(const UniqueFd& file) {
  UniqueFd copy(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return fail_errno("duplicate a descriptor");
  return copy;
}

Result<UniqueFd> open_for_reading(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return fail_errno(fmt::format("open {}", path));
  return fd;
}

Result<std::uint64_t> file_number(const UniqueFd& file) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  return std::uint64_t{status.st_ino};
}

Result<ByteCount> file_size(const UniqueFd& file) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  return ByteCount{static_cast<std::uint64_t>(status.st_size)};
}

Result<void> read_at(const UniqueFd& file, MutableByteSpan to, std::uint64_t offset) {
  while (!to.empty()) {
    const ssize_t n = ::pread(file.get(), to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("read at offset {}", offset));
    if (n == 0) return fail(ErrorCode::kTruncated, "the file ends at offset {}", offset);
    to = to.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> write_at(const UniqueFd& file, ByteSpan from, std::uint64_t offset) {
  while (!from.empty()) {
    const ssize_t n = ::pwrite(file.get(), from.data(), from.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("write at offset {}", offset));
    from = from.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> resize_file(const UniqueFd& file, ByteCount size) {
  if (::ftruncate(file.get(), static_cast<off_t>(size.value)) != 0) {
    return fail_errno(fmt::format("resize to {} bytes", size.value));
  }
  return {};
}

Result<std::optional<FileExtent>> next_data(const UniqueFd& file, std::uint64_t offset) {
  const off_t begin = ::lseek(file.get(), static_cast<off_t>(offset), SEEK_DATA);
  if (begin < 0 && errno == ENXIO) return std::optional<FileExtent>();
  if (begin < 0 && errno == EINVAL) {
    return std::optional(FileExtent{offset, TRY(file_size(file)).value});
  }
  if (begin < 0) return fail_errno("lseek SEEK_DATA");
  const off_t end = ::lseek(file.get(), begin, SEEK_HOLE);
  if (end < 0) return fail_errno("lseek SEEK_HOLE");
  return std::optional(
      FileExtent{static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end)});
}

Result<ByteCount> free_space(const std::string& path) {
  struct statvfs status{};
  if (::statvfs(path.c_str(), &status) != 0) return fail_errno(fmt::format("statvfs {}", path));
  return ByteCount{std::uint64_t{status.f_bavail} * status.f_frsize};
}

Result<void> copy_files(const std::string& from, const std::string& to) {
  std::error_code error;
  if (std::filesystem::exists(to) && !std::filesystem::is_empty(to, error)) {
    return fail(ErrorCode::kAlreadyExists, "{} is not empty", to);
  }
  const std::string partial = std::string(to, 0, to.find_last_not_of('/') + 1) + ".partial";
  std::filesystem::remove_all(partial, error);
  if (!error) std::filesystem::create_directories(partial, error);
  if (!error) std::filesystem::copy(from, partial, error);
  if (error) return fail_errno(fmt::format("copy {} to {}", from, partial), error.value());
  const UniqueFd directory(::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid() || ::syncfs(directory.get()) != 0) return fail_errno("sync " + partial);
  std::filesystem::rename(partial, to, error);
  if (error || ::syncfs(directory.get()) != 0) return fail_errno("rename " + partial);
  return {};
}

void remove_file(const std::string& path) { ::unlink(path.c_str()); }

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

Result<std::string> read_text_file(const std::string& path, std::size_t most_bytes) {
  const UniqueFd fd = TRY(open_for_reading(path));
  // Files under /proc report size 0, so the end is found by reading.
  std::string text(most_bytes + 1, '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + filled, text.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(fmt::format("read {}", path));
    if (n == 0) break;
    filled += static_cast<std::size_t>(n);
  }
  if (filled > most_bytes) {
    return fail(ErrorCode::kTooLarge, "{} has more than {} bytes", path, most_bytes);
  }
  text.resize(filled);
  return text;
}

namespace {

/// Whether `path` is the file that `fd` has open. Between the open and the lock its writer may have
/// renamed it: truncating it then would destroy what was published.
bool still_names(const std::string& path, const UniqueFd& fd) {
  struct stat named{};
  struct stat opened{};
  return ::lstat(path.c_str(), &named) == 0 && ::fstat(fd.get(), &opened) == 0 &&
         named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
}

}  // namespace

Result<PartialFile> PartialFile::create(const std::string& path) {
  const std::string partial = path + ".partial";
  UniqueFd fd(::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return fail_errno(fmt::format("create {}", partial));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return fail(ErrorCode::kBusy, "{} is being written by another process", partial);
  }
  struct stat opened{};
  if (::fstat(fd.get(), &opened) != 0) return fail_errno(partial);
  // In a directory of somebody else it may be a link to what is not his, and is emptied below.
  if (!S_ISREG(opened.st_mode) || opened.st_nlink > 1) {
    return fail(ErrorCode::kAlreadyExists, "{} is no file of its own", partial);
  }
  if (!still_names(partial, fd)) {
    return fail(ErrorCode::kBusy, "{} was just published or removed by its writer", partial);
  }
  if (::ftruncate(fd.get(), 0) != 0) return fail_errno(fmt::format("truncate {}", partial));
  return PartialFile(path, std::move(fd));
}

PartialFile::~PartialFile() {
  if (fd_.valid()) ::unlink(partial_path().c_str());
}

Result<void> PartialFile::give_to(FileOwner owner) {
  if (::fchown(fd_.get(), owner.uid, owner.gid) != 0) {
    return fail_errno(fmt::format("chown {}", partial_path()));
  }
  return {};
}

Result<void> PartialFile::publish() {
  if (::fsync(fd_.get()) != 0) return fail_errno(fmt::format("sync {}", partial_path()));
  if (::rename(partial_path().c_str(), path_.c_str()) != 0) {
    return fail_errno(fmt::format("rename {} to {}", partial_path(), path_));
  }
  fd_.reset();
  const auto parent = std::filesystem::absolute(path_).parent_path();
  const UniqueFd directory = TRY(open_for_reading(parent.string()));
  if (::fsync(directory.get()) != 0) return fail_errno(fmt::format("sync {}", parent.string()));
  return {};
}

}  // namespace thaw
