#pragma once

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

/// The parts of [start, start + length) at which a process has this file mapped, in order of
/// address. From /proc/PID/maps, so it may have changed by now. kPermission, kNotFound when there
/// is no such process.
Result<std::vector<AddressRange>> mapped_parts(pid_t pid, const UniqueFd& file, HostAddress start,
                                               ByteCount length);

}  // namespace thaw
