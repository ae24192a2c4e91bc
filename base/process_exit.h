#pragma once

#include <optional>

#include <sys/types.h>

#include "base/process.h"
#include "base/unique_fd.h"

namespace thaw {

/// How a process that is no child of this one has ended. REQUIRES: its pidfd is readable. From
/// PIDFD_GET_INFO (Linux 6.15) once its parent has waited for it, and before that from
/// /proc/PID/stat, which tells only those who may trace it. Nothing where neither says; pid 0: the
/// number is not known.
std::optional<ExitStatus> exit_status(const UniqueFd& pidfd, pid_t pid);

}  // namespace thaw
