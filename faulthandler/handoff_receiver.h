#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/socket.h"
#include "base/unique_fd.h"
#include "format/handoff.h"

namespace thaw {

/// Collects one handoff from a connected VMM, in however many pieces it comes. One thread.
class HandoffReceiver {
 public:
  struct Handoff {
    std::string text;  // a JSON array, for decode_handoff()
    UniqueFd userfaultfd;
    /// It was followed by the VMM's farewell.
    bool left = false;
  };

  /// Takes what has arrived. Nothing until the handoff is complete; kTruncated when the peer
  /// closes before, kTooLarge, kMalformed, kNoDescriptor, kSurplusDescriptor, kNotUserfaultfd,
  /// kNoRemoveEvents.
  Result<std::optional<Handoff>> receive(const UniqueFd& socket);

  /// Whether a userfaultfd has come: the peer has guest memory that waits for pages.
  bool has_userfaultfd() const;
  /// The userfaultfd of a handoff that was not completed, if it has arrived: then the peer has
  /// guest memory that waits for pages.
  UniqueFd take_userfaultfd();

 private:
  Result<Handoff> complete();

  std::string text_;
  HandoffScanner scanner_;
  std::vector<UniqueFd> descriptors_;
};

}  // namespace thaw
