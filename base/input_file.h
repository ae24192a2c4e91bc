#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// What a program reads at offsets, whatever a user named. A regular file or a block device is read
/// as it is. A stream (a pipe, or stdin) is read to its end into a sparse temporary file without a
/// name, in $TMPDIR or /tmp. One thread.
class InputFile {
 public:
  /// "-" is stdin. kTooLarge when a stream has more than `most` bytes. kTimeout when a named pipe
  /// has no writer for some time. kInvalidArgument for what has no end or no content: a directory,
  /// a character device, a socket, a file of /proc or /sys.
  static Result<InputFile> open(const std::string& path, ByteCount most);

  const UniqueFd& fd() const { return fd_; }
  /// When it was opened.
  ByteCount size() const { return size_; }
  bool from_stream() const { return from_stream_; }
  bool is_regular() const { return stamp_.has_value(); }

  enum class Change {
    kNone,
    kWritten,   // its size or a time stamp is another
    kReplaced,  // its name is another file's by now; the content that was read is whole
  };
  /// What became of a regular file since it was opened.
  Result<Change> change() const;
  /// Whether a program may have a regular file open, or mapped, for writing: what is written into a
  /// mapping changes no time stamp. True where the kernel does not say: for files of another user,
  /// and on file systems without leases.
  bool may_have_writers() const;

 private:
  /// Tells two states of a file apart.
  struct Stamp {
    std::uint64_t size = 0;
    std::int64_t modified_ns = 0;
    std::int64_t changed_ns = 0;
    std::uint64_t links = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };

  explicit InputFile(std::string path) : path_(std::move(path)) {}
  Result<void> take(UniqueFd fd, ByteCount most);
  Result<void> spool(const UniqueFd& stream, ByteCount most);
  Result<Stamp> stamp() const;
  /// Reads the stamp so that every later write is sure to change it.
  Result<void> take_stamp();

  std::string path_;
  UniqueFd fd_;
  ByteCount size_;
  bool from_stream_ = false;
  std::optional<Stamp> stamp_;  // of a regular file
};

/// The whole content of an input of at most `most` bytes. kTooLarge.
Result<Bytes> read_input(const std::string& path, ByteCount most);

}  // namespace thaw
