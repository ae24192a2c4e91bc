#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// A part of a process's address space.
struct AddressRange {
  HostAddress start;
  ByteCount length;
  friend bool operator==(const AddressRange&, const AddressRange&) = default;
};

/// A part of a process's address space, and where in a file it lies.
struct FileRange {
  AddressRange memory;
  std::uint64_t offset = 0;  // bytes
  friend bool operator==(const FileRange&, const FileRange&) = default;
};

/// All mappings of this file in a process, in order of address. From /proc/PID/maps, so they may
/// have changed by now. kPermission; kNotFound when there is no such process; kUnsupported when the
/// pid is 0 or /proc is that of another PID namespace; kTooLarge beyond some 10,000 mappings of all
/// files, 20 ms of looking.
Result<std::vector<FileRange>> mappings_of(pid_t pid, const UniqueFd& file);

/// The parts of a range at which these mappings are, which are in order of address.
std::vector<AddressRange> parts_in(std::span<const FileRange> mappings, AddressRange range);

/// The file behind a mapping.
struct MappedFile {
  std::uint64_t device;
  std::uint64_t inode;
  std::string path;  // in the process's root directory; may have been removed since
};
/// The first file, in order of address, that is mapped at one of these addresses, from a file like
/// /proc/PID/maps. Nothing when there is none, where it cannot be read, and behind some 10,000
/// mappings.
std::optional<MappedFile> first_file_at(const std::string& maps, std::span<const HostAddress> at);

}  // namespace thaw
