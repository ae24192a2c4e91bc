#pragma once

#include <string>
#include <utility>
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
    /// Of the VMM, if it has sent one and is in a PID namespace that is not seen from here.
    UniqueFd pidfd;
    /// It was followed by the VMM's farewell.
    bool left = false;
  };

  /// Takes what has arrived. Nothing until the handoff is complete; kTruncated when the peer
  /// closes before, kTooLarge, kMalformed, kNoDescriptor, kNotUserfaultfd; kSurplusDescriptor for
  /// too many descriptors and for more than one userfaultfd.
  Result<std::optional<Handoff>> receive(const UniqueFd& socket);

  /// Descriptors that came after the handoff. Those that are no userfaultfds are held as long as
  /// this lives: closing them may take long.
  void add_surplus(Received received);

  /// Whether a userfaultfd has come: the peer has guest memory that waits for pages.
  bool has_userfaultfd() const;
  /// REQUIRES: has_userfaultfd().
  Result<UniqueFd> copy_of_userfaultfd() const;
  /// The userfaultfds of a handoff that was not completed: then the peer has guest memory that
  /// waits for pages. Closing one of them could let its vCPUs read zeros.
  std::vector<UniqueFd> take_userfaultfds();
  /// Whether the kernel has closed descriptors of the handoff, userfaultfds among them perhaps.
  /// Says so once.
  bool take_loss() { return std::exchange(lost_descriptors_, false); }

 private:
  Result<Handoff> complete();

  std::string text_;
  HandoffScanner scanner_;
  std::vector<UniqueFd> descriptors_;
  bool lost_descriptors_ = false;
};

}  // namespace thaw
