#pragma once

#include <functional>

#include <poll.h>

#include "base/file.h"
#include "base/unique_fd.h"
#include "faulthandler/arrival.h"
#include "faulthandler/handoff_receiver.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"

namespace thaw {

/// Where one session's VMM comes in: accepts it, gives it the host image if it is to map one, and
/// takes its handoff. Every wait has an end. On the loop's thread.
class VmmDoor {
 public:
  /// `image` is what its VMM is to map; not valid: it has memory of its own. `on_arrival` is called
  /// at most once, and not in the constructor; it must not destroy the door.
  VmmDoor(Loop& loop, UniqueFd listener, UniqueFd image, std::function<void(Arrival)> on_arrival);
  VmmDoor(const VmmDoor&) = delete;
  VmmDoor& operator=(const VmmDoor&) = delete;

  /// Whether a VMM has connected and its handoff has not come wholly.
  bool busy() const { return open_ && connection_.valid(); }
  /// Nobody comes in any more. What has come of a VMM is returned: one that has handed its
  /// userfaultfd over depends on whoever has it.
  Arrival close();
  /// Whether it may be destroyed.
  bool finished() const;

 private:
  void await_connection() { loop_.poll(listener_, POLLIN, accepting_); }
  void on_connection(int result);
  /// Looks for the VMM again after one could not be accepted.
  void on_rested();
  Result<void> greet();
  void on_handoff(int result);
  void on_patience_over(int result);
  void refuse(Error error);
  void arrive(Arrival arrival);

  Loop& loop_;
  const UniqueFd listener_;
  const UniqueFd image_;
  const std::function<void(Arrival)> on_arrival_;
  bool open_ = true;
  UniqueFd connection_;
  PeerProcess vmm_{.pid = 0, .pidfd = UniqueFd()};
  HandoffReceiver receiver_;

  Nanoseconds accept_pause_{limits::kAcceptPauseFirst};  // before the next attempt
  Operation accepting_{[this](int result) { on_connection(result); }};
  Operation resting_{[this](int) { on_rested(); }};
  Operation receiving_{[this](int result) { on_handoff(result); }};
  Operation patience_{[this](int result) { on_patience_over(result); }};
};

}  // namespace thaw
