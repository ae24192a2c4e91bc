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
    std::vector<HandoffRegion> regions;
    UniqueFd userfaultfd;
    /// It was followed by the VMM's farewell.
    bool left = false;
  };

  /// Takes what has arrived. Nothing until the handoff is complete; kTruncated when the peer
  /// closes before, kTooLarge, kMalformed, kNoDescriptor, kSurplusDescriptor, kNotUserfaultfd,
  /// kNoRemoveEvents.
  Result<std::optional<Handoff>> receive(const UniqueFd& socket);

  /// Whether a userfaultfd has arrived: the peer has guest memory that waits for pages.
  bool has_userfaultfd() const;

 private:
  Result<Handoff> complete();

  std::string text_;
  HandoffScanner scanner_;
  std::vector<UniqueFd> descriptors_;
};

}  // namespace thaw
