#include "base/input_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/path_target.h"

namespace thaw {

namespace {

constexpr std::size_t kReadBytes = 1u << 20;

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// Without a name from the start, or at once after.
Result<UniqueFd> create_temporary_file() {
  std::error_code error;
  const auto directory = std::filesystem::temp_directory_path(error);
  if (error) return fail_errno("the directory for temporary files", error.value());
  UniqueFd fd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600));
  if (fd.valid()) return fd;
  std::string name = (directory / "thaw-XXXXXX").string();
  fd = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid()) return fail_errno(fmt::format("create a file in {}", directory.string()));
  ::unlink(name.c_str());
  return fd;
}

/// Fills as much of `to` as the stream still has.
Result<std::size_t> read_up_to(const UniqueFd& stream, MutableByteSpan to) {
  std::size_t filled = 0;
  while (filled < to.size()) {
    const ssize_t n = ::read(stream.get(), to.data() + filled, to.size() - filled);
    if (n == 0) break;
    if (n > 0) {
      filled += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN) {
      pollfd request{.fd = stream.get(), .events = POLLIN, .revents = 0};
      ::poll(&request, 1, -1);
    } else if (errno != EINTR) {
      return fail_errno("read the stream");
    }
  }
  return filled;
}

bool all_zero(ByteSpan page) {
  static constexpr std::array<std::byte, kPageBytes> kZeros{};
  return std::memcmp(page.data(), kZeros.data(), page.size()) == 0;
}

/// Zero pages become holes; the pages between two of them are one write.
Result<void> write_sparse(const UniqueFd& file, ByteSpan bytes, std::uint64_t offset) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < bytes.size(); at += kPageBytes) {
    if (!all_zero(bytes.subspan(at, std::min(kPageBytes, bytes.size() - at)))) continue;
    TRY(write_at(file, bytes.subspan(begin, at - begin), offset + begin));
    begin = std::min(at + kPageBytes, bytes.size());
  }
  return write_at(file, bytes.subspan(begin), offset + begin);
}

/// Whether a program has this pipe open for writing. Takes nothing out of it.
Result<bool> has_writer(const UniqueFd& pipe) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno("pipe");
  const UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  return ::tee(pipe.get(), write_end.get(), 1, SPLICE_F_NONBLOCK) != 0;
}

/// A named pipe without a writer reads as an end at once.
Result<void> wait_for_writer(const UniqueFd& pipe, const std::string& path) {
  pollfd request{.fd = pipe.get(), .events = POLLIN, .revents = 0};
  const Deadline deadline = Deadline::after(limits::kPipePeer);
  while (::poll(&request, 1, deadline.milliseconds_left()) <= 0) {
    if (!deadline.passed()) continue;
    if (TRY(has_writer(pipe))) return {};
    return fail(ErrorCode::kTimeout, "no program opened the pipe {} for writing within {} s", path,
                limits::kPipePeer.count());
  }
  return {};
}

Result<void> check_kind(const std::string& path, unsigned mode) {
  const char* const kind = S_ISDIR(mode)    ? "a directory"
                           : S_ISCHR(mode)  ? "a character device, which has no end"
                           : S_ISSOCK(mode) ? "a socket"
                                            : nullptr;
  if (kind == nullptr) return {};
  return fail(ErrorCode::kInvalidArgument, "{} is {}", path, kind);
}

}  // namespace

Result<InputFile> InputFile::open(const std::string& path, ByteCount most) {
  const PathTarget target = TRY(find_target(path, STDIN_FILENO));
  InputFile input(path);
  if (target.descriptor) {
    UniqueFd fd(::fcntl(*target.descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (!fd.valid()) return fail_errno(fmt::format("duplicate {}", path));
    TRY(input.take(std::move(fd), most));
    return input;
  }
  struct stat status{};
  if (::stat(target.path.c_str(), &status) != 0) return fail_errno(fmt::format("open {}", path));
  TRY(check_kind(path, status.st_mode));
  const int mode = S_ISFIFO(status.st_mode) ? O_NONBLOCK : 0;
  UniqueFd fd(::open(target.path.c_str(), O_RDONLY | O_NOCTTY | O_CLOEXEC | mode));
  if (!fd.valid()) return fail_errno(fmt::format("open {}", path));
  if (S_ISFIFO(status.st_mode)) TRY(wait_for_writer(fd, path));
  TRY(input.take(std::move(fd), most));
  return input;
}

Result<void> InputFile::take(UniqueFd fd, ByteCount most) {
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(fmt::format("fstat {}", path_));
  const bool regular = S_ISREG(status.st_mode);
  // A socket that was given as a descriptor is a stream like any other.
  if (!S_ISSOCK(status.st_mode)) TRY(check_kind(path_, status.st_mode));
  if (regular && is_kernel_file(fmt::format("/proc/self/fd/{}", fd.get()))) {
    return fail(ErrorCode::kInvalidArgument, "{} is a file of the kernel", path_);
  }
  const bool at_start = ::lseek(fd.get(), 0, SEEK_CUR) == 0;
  if ((regular && at_start) || S_ISBLK(status.st_mode)) {
    fd_ = std::move(fd);
    size_ = TRY(file_size(fd_));
    if (regular) TRY(take_stamp());
    return {};
  }
  from_stream_ = true;
  return spool(fd, most);
}

Result<void> InputFile::spool(const UniqueFd& stream, ByteCount most) {
  fd_ = TRY(create_temporary_file());
  Bytes buffer(kReadBytes);
  while (true) {
    const std::size_t n = TRY(read_up_to(stream, buffer));
    if (n > most.value - size_.value) {
      return fail(ErrorCode::kTooLarge, "{} has more than {} bytes", path_, most.value);
    }
    const auto written = write_sparse(fd_, ByteSpan(buffer).first(n), size_.value);
    if (!written) {
      return fail_errno(fmt::format("keep {} in the directory for temporary files", path_),
                        written.error().error_number());
    }
    size_ += ByteCount{n};
    if (n < buffer.size()) break;
  }
  return resize_file(fd_, size_);
}

Result<InputFile::Stamp> InputFile::stamp() const {
  struct stat status{};
  if (::fstat(fd_.get(), &status) != 0) return fail_errno(fmt::format("fstat {}", path_));
  return Stamp{.size = static_cast<std::uint64_t>(status.st_size),
               .modified_ns = nanoseconds(status.st_mtim),
               .changed_ns = nanoseconds(status.st_ctim),
               .links = std::uint64_t{status.st_nlink}};
}

Result<void> InputFile::take_stamp() {
  // Time stamps are of the kernel's last tick. One that is as young as that could stay the same
  // over another write.
  const auto tick = std::chrono::nanoseconds(limits::kTimeStampTick).count();
  for (unsigned attempt = 0; attempt < limits::kTimeStampAttempts; ++attempt) {
    stamp_ = TRY(stamp());
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const std::int64_t age = nanoseconds(now) - stamp_->modified_ns;
    if (age < 0 || age > tick) break;
    ::poll(nullptr, 0, static_cast<int>(limits::kTimeStampTick.count()));
  }
  size_ = ByteCount{stamp_->size};
  return {};
}

Result<InputFile::Change> InputFile::change() const {
  if (!stamp_) return Change::kNone;
  const Stamp now = TRY(stamp());
  if (now.size != stamp_->size || now.modified_ns != stamp_->modified_ns) return Change::kWritten;
  struct stat named{};
  struct stat read{};
  const bool named_still = ::stat(path_.c_str(), &named) != 0 || ::fstat(fd_.get(), &read) != 0 ||
                           (named.st_dev == read.st_dev && named.st_ino == read.st_ino);
  if (path_ != "-" && !named_still) return Change::kReplaced;
  // A tool that gives a file its old time back cannot do that with the time of its last change.
  // Links that come or go change that time as well.
  const bool relinked = now.links != stamp_->links;
  return now.changed_ns != stamp_->changed_ns && !relinked ? Change::kWritten : Change::kNone;
}

bool InputFile::may_have_writers() const {
  // The kernel grants a lease to read while there is none. What opens the file for writing in that
  // moment waits, and has a signal sent: one that does nothing by itself.
  const bool none =
      ::fcntl(fd_.get(), F_SETSIG, SIGURG) == 0 && ::fcntl(fd_.get(), F_SETLEASE, F_RDLCK) == 0;
  static_cast<void>(::fcntl(fd_.get(), F_SETLEASE, F_UNLCK));
  return !none;
}

Result<Bytes> read_input(const std::string& path, ByteCount most) {
  const InputFile input = TRY(InputFile::open(path, most));
  if (input.size() > most) {
    return fail(ErrorCode::kTooLarge, "{} has {} bytes", path, input.size().value);
  }
  Bytes content(input.size().value);
  TRY(read_at(input.fd(), content, 0));
  return content;
}

}  // namespace thaw
