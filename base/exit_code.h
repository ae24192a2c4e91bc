#pragma once

#include "base/error.h"

namespace thaw {

/// The exit code of a command for an error: 2 wrong arguments, 3 not found, 4 unreachable or timed
/// out, 5 exists already or busy, else 1.
int exit_code_for(ErrorCode code);
/// That of a server: 2 wrong arguments or configuration, else 1.
int server_exit_code_for(ErrorCode code);

}  // namespace thaw
