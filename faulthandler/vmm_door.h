#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <poll.h>

#include "base/file.h"
#include "base/socket.h"
#include "base/unique_fd.h"
#include "faulthandler/arrival.h"
#include "faulthandler/descriptor_reserve.h"
#include "faulthandler/handoff_receiver.h"
#include "faulthandler/kept_session.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"

namespace thaw {

/// Where one session's VMM comes in. Any process that may connect can also connect by mistake, so
/// a connection is the VMM's only once it has passed a userfaultfd. Until then several connections
/// are heard side by side, and each that fails is dropped without harm to the session. The VMM's
/// connection ends all others; what is wrong with its handoff from then on is told in the arrival.
/// Every wait has an end. On the loop's thread.
class VmmDoor {
 public:
  /// Whether a VMM of root or of this process's user may map the host image. It could change what
  /// other VMs read.
  enum class RootVmm { kRefused, kAllowed };
  /// `session` is for the log. `kept` has the listener and, if its VMM is to map one, the host
  /// image. A VMM that comes when no descriptor is left is taken in with those of `reserve`.
  /// `on_arrival` is called at most once, and not in the constructor; it must not destroy the door.
  VmmDoor(Loop& loop, std::uint64_t session, KeptSession kept, DescriptorReserve& reserve,
          std::function<void(Arrival)> on_arrival, RootVmm root_vmm = RootVmm::kRefused);
  VmmDoor(const VmmDoor&) = delete;
  VmmDoor& operator=(const VmmDoor&) = delete;

  /// Whether a handoff is under way, or may be: a connection counts for limits::kSilentVmm.
  bool busy() const;
  /// No VMM comes in any more. What has come of one is returned: a VMM that has handed its
  /// userfaultfd over depends on its holder.
  Arrival close();
  /// Whether it may be destroyed.
  bool finished() const;

 private:
  /// A connection that may be the VMM's.
  struct Candidate {
    Candidate(VmmDoor& door, UniqueFd socket, PeerProcess peer);
    bool settled() const { return !receiving.active() && !patience.active(); }

    UniqueFd connection;
    PeerProcess vmm;
    HandoffReceiver receiver;
    const Clock::time_point since = Clock::now();
    bool dropped = false;
    Operation receiving;
    Operation patience;
  };

  void await_connection() { loop_.poll(listener_, POLLIN, accepting_); }
  void on_connection(int result);
  Result<void> admit(UniqueFd connection);
  Result<void> check_user(const PeerProcess& peer) const;
  /// Looks for the VMM again after a connection could not be accepted, or too many were.
  void on_rested();
  Result<void> greet(const UniqueFd& connection);
  void on_handoff(Candidate& candidate, int result);
  void on_silence(Candidate& candidate, int result);
  void on_patience_over(int result);
  /// Nothing comes of the candidate. If it has passed a userfaultfd, the session is over with it.
  void refuse(Candidate& candidate, Error error);
  /// Of a handoff that has not come wholly.
  void take_userfaultfds(Candidate& candidate, Arrival& arrival);
  void drop(Candidate& candidate);
  void note_drop(const Error& error);
  /// The candidate is the VMM.
  void choose(Candidate& candidate);
  void arrive(Arrival arrival);
  std::size_t candidates_left() const;

  Loop& loop_;
  const std::uint64_t session_;
  const KeptSession kept_;
  const UniqueFd& listener_;
  const UniqueFd& image_;
  DescriptorReserve& reserve_;
  const std::function<void(Arrival)> on_arrival_;
  const RootVmm root_vmm_;
  std::optional<BootTime> waiting_since_;  // that connections are known to wait for their turn
  bool open_ = true;
  std::vector<std::unique_ptr<Candidate>> candidates_;  // the oldest first
  Candidate* chosen_ = nullptr;
  std::uint64_t unlogged_drops_ = 0;
  Clock::time_point next_log_{};

  Nanoseconds accept_pause_{limits::kAcceptPauseFirst};  // before the next attempt
  Operation accepting_{[this](int result) { on_connection(result); }};
  Operation resting_{[this](int) { on_rested(); }};
  Operation patience_{[this](int result) { on_patience_over(result); }};
};

}  // namespace thaw
