#pragma once

#include <functional>
#include <stop_token>

#include "format/control.h"
#include "format/session_objects.h"

namespace thaw {

/// What comes of one `prepare`.
struct Preparation {
  ControlReply reply;
  /// If it succeeded: ends the session and removes what was made for it, unless its VMM has come.
  std::function<void()> take_back;
};

/// What a control socket has carried out, on threads that may wait.
struct ControlCommands {
  /// Blocks on page servers and files. Ends soon after a stop was requested, with kStopped.
  std::function<Preparation(const control::Prepare& request, SessionObjects objects,
                            const std::stop_token& stop)>
      prepare;
  /// Any other command. Waits for the loop alone.
  std::function<ControlReply(const ControlRequest& request)> handle;
};

}  // namespace thaw
