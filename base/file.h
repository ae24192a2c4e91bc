#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <sys/types.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// Files as values and Results; every call retries EINTR and finishes short reads and writes.
/// Offsets and sizes are in bytes.

/// Whose a socket or file that is made for a VMM shall be.
struct FileOwner {
  uid_t uid;
  gid_t gid;
};

/// Another descriptor of the same open file.
Result<UniqueFd> duplicate(const UniqueFd& file);

/// The file's number in its file system: two descriptors of memory files that have the same are of
/// the same file.
Result<std::uint64_t> file_number(const UniqueFd& file);

/// Waits for no other program, whatever the path leads to.
Result<UniqueFd> open_for_reading(const std::string& path);
/// Of a block device its capacity; its position moves there.
Result<ByteCount> file_size(const UniqueFd& file);

/// Fills the whole span from `offset`; kTruncated if the file ends before.
Result<void> read_at(const UniqueFd& file, MutableByteSpan to, std::uint64_t offset);
/// Cuts the file or extends it with a hole.
Result<void> resize_file(const UniqueFd& file, ByteCount size);
Result<void> write_at(const UniqueFd& file, ByteSpan from, std::uint64_t offset);

/// A part [begin, end) of a file.
struct FileExtent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};
/// The next data at or after `offset` up to the hole that follows it, or nothing when only a hole
/// is left (SEEK_DATA, SEEK_HOLE). On a file system without holes all is data.
Result<std::optional<FileExtent>> next_data(const UniqueFd& file, std::uint64_t offset);

/// What an unprivileged process could still write to the file system that holds `path`.
Result<ByteCount> free_space(const std::string& path);

/// Copies the files of a directory into a new one, which appears whole and durable or not at all:
/// it is NAME.partial before. The copy is for its owner alone. kAlreadyExists when there is
/// something in it already.
Result<void> copy_files(const std::string& from, const std::string& to);

/// Removes a name; one that is gone already is fine, any other failure too, since nothing could be
/// done about it.
void remove_file(const std::string& path);

/// Whether a person watches this descriptor.
bool is_terminal(int fd);

/// kInvalidArgument for a pipe, a directory and the like.
Result<std::string> read_text_file(const std::string& path, std::size_t most_bytes);

}  // namespace thaw
