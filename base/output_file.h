#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "base/partial_file.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// Where a user wants a program's output: a file, a pipe, a device or stdout. Only a regular file
/// is ever replaced, through a PartialFile; the link that leads to it stays. Into everything else
/// the bytes go in order, what is skipped as zeros.
///
/// open() finds all that is wrong with the target before there is anything to write. One thread.
class OutputFile {
 public:
  /// "-" is stdout. What the program prints to stdout goes to stderr once an output has taken it.
  /// A pipe is given some time for its reader to come: kTimeout. kAlreadyExists for a directory or
  /// a socket, kBusy for a block device that is mounted.
  static Result<OutputFile> open(const std::string& path);

  /// The output will be `size` bytes, of which `data` are not zero. kNoSpace when the target
  /// cannot take them. Called before the first write.
  Result<void> expect(ByteCount size, ByteCount data);
  /// Offsets only ever grow.
  Result<void> write(ByteSpan from, std::uint64_t offset);

  Result<void> publish() { return publish_together(*this, nullptr); }
  /// Completes one or two outputs that belong together; files appear after both are complete.
  static Result<void> publish_together(OutputFile& first, OutputFile* second);

  bool has_target_of(const OutputFile& other) const;
  /// Whether both paths name descriptors of this process for the same file. To be asked before
  /// either is opened: an output that takes stdout leaves stderr in its place.
  static Result<bool> name_one_descriptor(const std::string& path, const std::string& other);

 private:
  explicit OutputFile(std::string path) : path_(std::move(path)) {}

  static Result<OutputFile> of_descriptor(const std::string& path, int descriptor);
  /// Opens what is no file to be replaced.
  Result<void> open_in_place(const std::string& target, unsigned type);
  Result<void> write_zeros_until(std::uint64_t offset);
  Result<void> write_in_order(ByteSpan from);
  /// All but making a file visible.
  Result<void> complete();

  std::string path_;
  std::optional<PartialFile> file_;  // else `fd_` is written in place
  UniqueFd fd_;
  bool device_ = false;  // a block device
  std::uint64_t position_ = 0;
  std::uint64_t size_ = 0;
};

/// Writes a whole output.
Result<void> write_output(const std::string& path, ByteSpan content);

}  // namespace thaw
