#pragma once

#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "format/control.h"

namespace thaw {

/// A path means another object to the fault handler once a VMM has renamed a directory of its jail.
/// So the client of a `prepare` makes the socket and the files, and passes them as descriptors in
/// this order. The paths of the request are for people.
struct SessionObjects {
  UniqueFd listener;          // listens; gets its name once the session is prepared
  UniqueFd socket_directory;  // where that name will be (O_PATH)
  UniqueFd socket_file;       // of the listener (O_PATH)
  UniqueFd state;             // empty file for the VMM state; not valid: none is wanted
  UniqueFd trace_directory;   // where the trace is to appear (O_PATH); not valid: none is wanted

  /// What came with the request. kInvalidArgument where that is not what it needs.
  static Result<SessionObjects> of(const control::Prepare& request,
                                   std::vector<UniqueFd> descriptors);
  /// The valid ones, in that order.
  std::vector<int> numbers() const;
};

}  // namespace thaw
