#pragma once

#include <optional>

#include <sys/types.h>

#include "base/unique_fd.h"

namespace thaw {

/// The first argument of the system call that a process's first thread is in, if a descriptor can
/// have that number; nothing when it is in none, or that may not be known. From /proc/PID/syscall.
std::optional<int> descriptor_in_call(pid_t process);

/// Whether this number of another process is the same open file (kcmp(2)); false, too, when that
/// may not be known.
bool is_same_open_file(const UniqueFd& ours, pid_t process, int descriptor);

}  // namespace thaw
