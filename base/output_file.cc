#include "base/output_file.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/path_target.h"

namespace thaw {

namespace {

bool same_file(const struct stat& a, const struct stat& b) {
  if (S_ISCHR(a.st_mode) || S_ISBLK(a.st_mode)) {
    return (a.st_mode & S_IFMT) == (b.st_mode & S_IFMT) && a.st_rdev == b.st_rdev;
  }
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool same_file(int a, int b) {
  struct stat one{};
  struct stat other{};
  return ::fstat(a, &one) == 0 && ::fstat(b, &other) == 0 && same_file(one, other);
}

/// A pipe cannot be opened for writing before it has a reader, and nothing tells when one comes.
Result<UniqueFd> open_pipe(const std::string& path) {
  const Deadline deadline = Deadline::after(limits::kPipePeer);
  while (true) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (fd.valid()) return fd;
    if (errno != ENXIO && errno != EINTR) return fail_errno(fmt::format("open {}", path));
    if (deadline.passed()) {
      return fail(ErrorCode::kTimeout, "no program opened the pipe {} for reading within {} s",
                  path, limits::kPipePeer.count());
    }
    ::poll(nullptr, 0, static_cast<int>(limits::kPipePoll.count()));
  }
}

}  // namespace

Result<OutputFile> OutputFile::open(const std::string& path) {
  const PathTarget target = TRY(find_target(path, STDOUT_FILENO));
  if (target.descriptor) return of_descriptor(path, *target.descriptor);
  OutputFile output(path);
  struct stat status{};
  const bool exists = ::stat(target.path.c_str(), &status) == 0;
  if (!exists && errno != ENOENT) return fail_errno(fmt::format("look at {}", path));
  const bool regular = !exists || S_ISREG(status.st_mode) || S_ISDIR(status.st_mode);
  struct stat named{};
  const bool link = ::lstat(target.path.c_str(), &named) == 0 && S_ISLNK(named.st_mode);
  if (regular && !link) {
    output.file_.emplace(TRY(PartialFile::create(target.path)));
    return output;
  }
  TRY(output.open_in_place(target.path, status.st_mode));
  return output;
}

Result<OutputFile> OutputFile::of_descriptor(const std::string& path, int descriptor) {
  OutputFile output(path);
  const int flags = ::fcntl(descriptor, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) {
    return fail(ErrorCode::kInvalidArgument, "{} is not open for writing", path);
  }
  output.fd_ = UniqueFd(::fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!output.fd_.valid()) return fail_errno(fmt::format("duplicate {}", path));
  if (same_file(descriptor, STDOUT_FILENO) && ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    return fail_errno("dup2");
  }
  return output;
}

Result<void> OutputFile::open_in_place(const std::string& target, unsigned type) {
  if (S_ISSOCK(type)) return fail(ErrorCode::kAlreadyExists, "{} is a socket", path_);
  if (S_ISDIR(type)) return fail(ErrorCode::kAlreadyExists, "{} is a directory", path_);
  if (S_ISFIFO(type)) {
    fd_ = TRY(open_pipe(target));
    return {};
  }
  device_ = S_ISBLK(type);
  // For a block device O_EXCL means that nothing else has claimed it, such as a mount.
  const int mode = device_ ? O_EXCL : S_ISREG(type) ? O_TRUNC : 0;
  fd_ = UniqueFd(::open(target.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC | mode));
  if (fd_.valid()) return {};
  if (device_ && errno == EBUSY) {
    return fail(ErrorCode::kBusy, "{} is mounted or used by another device", path_);
  }
  return fail_errno(fmt::format("open {}", path_));
}

Result<void> OutputFile::expect(ByteCount size, ByteCount data) {
  size_ = size.value;
  if (file_) {
    const auto room = TRY(file_->room());
    if (room && *room < data) {
      return fail(ErrorCode::kNoSpace, "{} needs {} bytes, and its file system has {}", path_,
                  data.value, room->value);
    }
    const auto resized = resize_file(file_->fd(), size);
    if (!resized) {
      return fail_errno(fmt::format("make {} {} bytes long", path_, size.value),
                        resized.error().error_number());
    }
  }
  if (device_) {
    const ByteCount has = TRY(file_size(fd_));
    if (::lseek(fd_.get(), 0, SEEK_SET) < 0) return fail_errno("lseek");
    if (has < size) {
      return fail(ErrorCode::kNoSpace, "{} has {} bytes, and the output {}", path_, has.value,
                  size.value);
    }
  }
  return {};
}

Result<void> OutputFile::write(ByteSpan from, std::uint64_t offset) {
  if (file_) {
    const auto written = write_at(file_->fd(), from, offset);
    if (written) return {};
    return fail_errno(fmt::format("write {} at offset {}", path_, offset),
                      written.error().error_number());
  }
  TRY(write_zeros_until(offset));
  return write_in_order(from);
}

Result<void> OutputFile::write_zeros_until(std::uint64_t offset) {
  CHECK(position_ <= offset);
  if (device_ && position_ < offset) {
    // A device can often do this without a transfer of the zeros.
    constexpr std::uint64_t kMostAtOnce = std::uint64_t{256} << 20;
    while (position_ < offset) {
      const std::uint64_t length = std::min(offset - position_, kMostAtOnce);
      if (::fallocate(fd_.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                      static_cast<off_t>(position_), static_cast<off_t>(length)) != 0) {
        break;
      }
      position_ += length;
    }
    if (::lseek(fd_.get(), static_cast<off_t>(position_), SEEK_SET) < 0) return fail_errno("lseek");
  }
  static constexpr std::array<std::byte, 64u << 10> kZeros{};
  while (position_ < offset) {
    TRY(write_in_order(ByteSpan(kZeros).first(std::min(offset - position_, kZeros.size()))));
  }
  return {};
}

Result<void> OutputFile::write_in_order(ByteSpan from) {
  while (!from.empty()) {
    const ssize_t n = ::write(fd_.get(), from.data(), from.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      pollfd request{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
      ::poll(&request, 1, -1);
      continue;
    }
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) {
      return fail(ErrorCode::kIo, "the reader of {} has gone", path_);
    }
    if (n < 0) return fail_errno(fmt::format("write {} at offset {}", path_, position_));
    from = from.subspan(static_cast<std::size_t>(n));
    position_ += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> OutputFile::complete() {
  if (file_) return {};
  TRY(write_zeros_until(std::max(size_, position_)));
  // Pipes and character devices have nothing to sync.
  if (::fsync(fd_.get()) != 0 && errno != EINVAL && errno != EROFS) {
    return fail_errno(fmt::format("sync {}", path_));
  }
  return {};
}

Result<void> OutputFile::publish_together(OutputFile& first, OutputFile* second) {
  TRY(first.complete());
  if (second != nullptr) TRY(second->complete());
  const bool two_files = first.file_ && second != nullptr && second->file_;
  if (two_files) return PartialFile::publish_together({&*first.file_, &*second->file_});
  if (first.file_) TRY(first.file_->publish());
  if (second != nullptr && second->file_) TRY(second->file_->publish());
  return {};
}

bool OutputFile::has_target_of(const OutputFile& other) const {
  if (file_ || other.file_) return file_ && other.file_ && file_->has_name_of(*other.file_);
  return same_file(fd_.get(), other.fd_.get());
}

Result<bool> OutputFile::name_one_descriptor(const std::string& path, const std::string& other) {
  const auto one = TRY(find_target(path, STDOUT_FILENO)).descriptor;
  const auto two = TRY(find_target(other, STDOUT_FILENO)).descriptor;
  return one && two && same_file(*one, *two);
}

Result<void> write_output(const std::string& path, ByteSpan content) {
  OutputFile output = TRY(OutputFile::open(path));
  TRY(output.write(content, 0));
  return output.publish();
}

}  // namespace thaw
