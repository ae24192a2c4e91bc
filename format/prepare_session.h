#pragma once

#include <string>

#include "base/error.h"
#include "format/control.h"

namespace thaw {

/// Makes the socket and the files of a session where the request says, with the rights of this
/// process, and has the fault handler at `control_socket` prepare the session with them. Paths are
/// resolved here and once (find_place()). The socket and the state file have their names when this
/// returns, and not before the session is prepared; after an error there is nothing of it.
Result<control::Prepared> prepare_session(const std::string& control_socket,
                                          const control::Prepare& request);

}  // namespace thaw
