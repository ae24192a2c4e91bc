#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/private_files.h"

namespace thaw {

Result<UniqueFd> duplicate(const UniqueFd& file) {
  UniqueFd copy(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return fail_errno("duplicate a descriptor");
  return copy;
}

Result<UniqueFd> open_for_reading(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
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
  if (S_ISBLK(status.st_mode)) {
    const off_t end = ::lseek(file.get(), 0, SEEK_END);
    if (end < 0) return fail_errno("find the end of a block device");
    return ByteCount{static_cast<std::uint64_t>(end)};
  }
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

namespace {

Result<void> copy_and_rename(const std::string& from, const std::string& partial,
                             const std::string& to) {
  std::error_code error;
  std::filesystem::remove_all(partial, error);
  if (error) return fail_errno("remove " + partial, error.value());
  TRY(make_private_directory(partial));
  std::filesystem::copy(from, partial, error);
  for (const auto& entry : std::filesystem::directory_iterator(partial, error)) {
    const auto mode = std::filesystem::perms(0600);
    if (!error) std::filesystem::permissions(entry.path(), mode, error);
  }
  if (error) return fail_errno(fmt::format("copy {} to {}", from, partial), error.value());
  const UniqueFd directory(::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid() || ::syncfs(directory.get()) != 0) return fail_errno("sync " + partial);
  std::filesystem::rename(partial, to, error);
  if (error) return fail_errno("rename " + partial, error.value());
  if (::syncfs(directory.get()) != 0) return fail_errno("sync " + to);
  return {};
}

}  // namespace

Result<void> copy_files(const std::string& from, const std::string& to) {
  std::error_code error;
  if (std::filesystem::exists(to) && !std::filesystem::is_empty(to, error)) {
    return fail(ErrorCode::kAlreadyExists, "{} is not empty", to);
  }
  const std::string partial = std::string(to, 0, to.find_last_not_of('/') + 1) + ".partial";
  auto copied = copy_and_rename(from, partial, to);
  if (!copied) std::filesystem::remove_all(partial, error);
  return copied;
}

void remove_file(const std::string& path) { ::unlink(path.c_str()); }

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

Result<std::string> read_text_file(const std::string& path, std::size_t most_bytes) {
  const UniqueFd fd = TRY(open_for_reading(path));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(fmt::format("stat {}", path));
  if (!S_ISREG(status.st_mode) && !S_ISCHR(status.st_mode)) {
    return fail(ErrorCode::kInvalidArgument, "{} is no regular file", path);
  }
  // Files under /proc report size 0, so the end is found by reading.
  constexpr std::size_t kFirstBytes = 16384;
  std::string text;
  std::size_t filled = 0;
  while (filled <= most_bytes) {
    if (filled == text.size()) {
      text.resize(std::min(most_bytes + 1, std::max(kFirstBytes, 2 * filled)));
    }
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

}  // namespace thaw
