#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <poll.h>

#include "base/file.h"
#include "base/log.h"
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
/// Its connection takes no more descriptors then, if the kernel can refuse them, and has none left.
///
/// Any process that connects may send descriptors of all kinds of files, and the file decides how
/// long closing it lasts. So a door is for a process of its own (ServedDoor), which no other one
/// waits for. Every other wait has an end. On the loop's thread.
class VmmDoor {
 public:
  /// Whether a VMM of root or of this process's user may map the host image. It could change what
  /// other VMs read.
  enum class RootVmm { kRefused, kAllowed };
  struct Calls {
    /// Called at most once, and not in the constructor; it must not destroy the door.
    std::function<void(Arrival)> on_arrival;
    /// A VMM has handed its userfaultfd over, and not all of the rest: copies of kUserfaultfd and
    /// kPidfd, for the process that outlives this one.
    std::function<void(KeptSession held)> on_vmm;
    /// For the log.
    std::function<void(LogLevel, const std::string& line)> say;
  };
  /// `kept` has the listener and, if its VMM is to map one, the host image. A VMM that comes when
  /// no descriptor is left is taken in with those of `reserve`.
  VmmDoor(Loop& loop, KeptSession kept, DescriptorReserve& reserve, Calls calls,
          RootVmm root_vmm = RootVmm::kRefused);
  VmmDoor(const VmmDoor&) = delete;
  VmmDoor& operator=(const VmmDoor&) = delete;

  /// Whether a handoff is under way, or may be: a connection counts for limits::kSilentVmm.
  bool busy() const;
  /// Connections of which nothing is known yet.
  std::size_t candidates_left() const;
  /// No VMM comes in any more. What has come of one is returned, with a refusal if its handoff is
  /// not whole: a VMM that has handed its userfaultfd over depends on its holder. What connections
  /// have sent by now counts. Those that wait to be accepted are left to the next listener, or are
  /// heard, too: then there is no next one.
  enum class Queue { kLeft, kHeard };
  Arrival close(Queue queue = Queue::kLeft);
  bool closed() const { return !open_; }
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
    bool whole = false;  // its handoff has come, and is not in the receiver any more
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
  /// Its connection ends. What it has sent and is not heard yet is heard before: if that is a
  /// userfaultfd, it is held, beside those of the session's VMM.
  void drop(Candidate& candidate);
  /// Its userfaultfds are held, and are not the session's. False: there are none.
  bool strand(Candidate& candidate);
  /// Takes what it has sent, before its connection ends. Chooses it if that is a userfaultfd.
  void hear_out(Candidate& candidate, Arrival& arrival);
  void admit_queue();
  /// Of a handoff that has come wholly.
  static void take_handoff(Candidate& candidate, HandoffReceiver::Handoff handoff,
                           Arrival& arrival);
  /// What the VMM has sent after its handoff does not stay in its connection: closing that would
  /// close the descriptors in there.
  void drain(Candidate& candidate, Arrival& arrival);
  void note_drop(const Error& error);
  /// The candidate is the VMM.
  void choose(Candidate& candidate);
  void tell_of(const Candidate& candidate);
  void arrive(Arrival arrival);

  Loop& loop_;
  const KeptSession kept_;
  const UniqueFd& listener_;
  const UniqueFd& image_;
  DescriptorReserve& reserve_;
  const Calls calls_;
  const RootVmm root_vmm_;
  std::optional<BootTime> waiting_since_;  // that connections are known to wait for their turn
  bool open_ = true;
  std::vector<std::unique_ptr<Candidate>> candidates_;  // the oldest first
  Candidate* chosen_ = nullptr;
  std::vector<UniqueFd> stranded_;  // userfaultfds beside the session's
  std::uint64_t unlogged_drops_ = 0;
  Clock::time_point next_log_{};

  Nanoseconds accept_pause_{limits::kAcceptPauseFirst};  // before the next attempt
  Operation accepting_{[this](int result) { on_connection(result); }};
  Operation resting_{[this](int) { on_rested(); }};
  Operation patience_{[this](int result) { on_patience_over(result); }};
};

}  // namespace thaw
