#pragma once

#include <span>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "format/control.h"

namespace thaw {

/// One line of the control protocol over a socket, without its newline: kTooLarge beyond
/// limits::kMaxControlBytes, kTruncated when the peer closes before the newline, kTimeout.
Result<std::string> receive_control_line(const UniqueFd& socket, Deadline deadline);

/// Asks the fault handler at `socket_path` and waits for its reply; an error it replies with is
/// returned as the error. kUnavailable when none listens there or it goes away, kTimeout when it
/// does not answer. Preparing includes fetching the page map and the state file; prepare_session()
/// makes the descriptors for it.
Result<ControlReply> ask_fault_handler(const std::string& socket_path,
                                       const ControlRequest& request,
                                       std::span<const int> descriptors = {});

}  // namespace thaw
