#pragma once

#include <optional>
#include <string>

#include "base/error.h"
#include "base/socket.h"
#include "base/unique_fd.h"

namespace thaw {

/// What became of the wait for a session's VMM. Taken by the supervisor, which outlives the handler
/// that it is for.
struct Arrival {
  UniqueFd connection;  // not valid: nobody came
  PeerProcess vmm{.pid = 0, .pidfd = UniqueFd()};
  UniqueFd userfaultfd;            // also of a handoff that is refused, if it came
  UniqueFd other_userfaultfds{};   // that came beside it: what hold_descriptors() returned
  std::string handoff;             // its text
  bool left = false;               // the VMM has said farewell already
  std::optional<Error> refusal{};  // why it is no handoff

  /// All but the descriptors, in a memory file. kNoSpace and the like.
  Result<UniqueFd> describe() const;
  /// Reads that back: an arrival without descriptors. kMalformed.
  static Result<Arrival> read(const UniqueFd& description);
};

}  // namespace thaw
