#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/histogram.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "faulthandler/demand_link.h"
#include "faulthandler/fault_core.h"
#include "faulthandler/handoff_receiver.h"
#include "faulthandler/loop.h"
#include "faulthandler/regions.h"
#include "faulthandler/snapshot_source.h"
#include "format/chunk.h"
#include "format/control.h"

namespace thaw {

struct SessionOptions {
  std::uint64_t id = 0;
  std::string socket_path;
  UniqueFd listener;  // on socket_path
  std::shared_ptr<const SnapshotImage> image;
  UnservablePolicy on_unservable = UnservablePolicy::kKill;
};

/// One VM being served: waits for its VMM, takes the handoff, answers its faults until the VMM has
/// exited. A page enters the guest only here: as the verified content of its chunk, or as zeros
/// where the snapshot has zeros or the guest gave the page back.
///
/// The userfaultfd is closed only when the VMM is dead: closed earlier, missing pages would read
/// as zeros in a VMM that kept no copy of it. On the loop's thread.
class Session final : public ChunkSink {
 public:
  Session(Loop& loop, DemandLink& link, SessionOptions options);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  /// Begins to wait for the VMM.
  void start();
  /// Ends a session whose VMM is not there or dead; kBusy for a living one, unless it is to be
  /// killed: then the session ends when the VMM has exited.
  Result<void> stop(control::StopMode mode);

  SessionState state() const { return state_; }
  /// Whether it has ended and may be destroyed.
  bool finished() const;
  SessionReport report() const;

 private:
  // Until the VMM is attached.
  void on_connection(int result);
  void on_handoff(int result);
  void on_patience_over(int result);
  Result<void> attach(HandoffReceiver::Handoff handoff);
  /// Ends the session, or if a VM depends on it, keeps what it holds until the VM has gone.
  void refuse_handoff(const Error& error);

  // While serving.
  void on_events(int result);
  void on_vmm_exit(int result);
  /// Reads what is queued: all REMOVEs take effect before the first fault is answered, since the
  /// kernel's order between the two is not causal.
  void drain_events();
  Result<void> apply_removals();
  void answer_faults();
  void ask_for_wanted();
  void on_chunk(const WantedPage& wanted, ByteSpan chunk) override;
  void on_refused(const WantedPage& wanted, const Error& error) override;
  void on_room() override { ask_for_wanted(); }

  /// A page whose fill met a REMOVE that is not through. `content` is empty for zeros.
  struct DelayedFill {
    WantedPage wanted;
    std::unique_ptr<PlainPage> content;
  };
  /// Puts the page in: `content`, or zeros when that is nullptr or the page was removed since.
  void fill(const WantedPage& wanted, const PlainPage* content);
  void delay(const WantedPage& wanted, const PlainPage* content);
  void retry_delayed();
  void on_retry_timer(int result);
  void unservable(const WantedPage& wanted, const std::string& reason);
  void on_stuck_timer(int result);

  void kill_vmm();
  /// Stops the VM for good reason, as its policy says, and remembers why.
  void give_up(const std::string& reason);
  void end(std::string outcome);
  void cancel_all();

  Loop& loop_;
  DemandLink& link_;
  const SessionOptions options_;
  SessionState state_ = SessionState::kPrepared;
  std::string outcome_;

  UniqueFd connection_;  // kept open: its end is the VMM's exit for Firecracker 1.12 and later
  PeerProcess vmm_{.pid = 0, .pidfd = UniqueFd()};
  std::unique_ptr<HandoffReceiver> receiver_;
  UniqueFd userfaultfd_;
  RegionTable regions_;
  FaultCore core_;
  ChunkCodec codec_;
  PlainPage plain_;

  std::vector<MemoryEvent> events_;  // of the drain under way
  std::deque<WantedPage> wanted_;    // to be asked for; each page at most once
  std::uint64_t asked_ = 0;          // pages with the link
  std::vector<DelayedFill> delayed_;
  Nanoseconds delay_{limits::kDelayedFirst};
  std::vector<WantedPage> stuck_;  // unservable, under the policy to wait

  LatencyHistogram latency_;
  std::uint64_t redundant_fills_ = 0;
  std::uint64_t gone_fills_ = 0;
  std::uint64_t delayed_fills_ = 0;
  std::uint64_t damaged_chunks_ = 0;
  std::uint64_t bytes_received_ = 0;

  Operation accepting_{[this](int result) { on_connection(result); }};
  Operation receiving_{[this](int result) { on_handoff(result); }};
  Operation patience_{[this](int result) { on_patience_over(result); }};
  Operation reading_{[this](int result) { on_events(result); }};
  Operation exiting_{[this](int result) { on_vmm_exit(result); }};
  Operation retrying_{[this](int result) { on_retry_timer(result); }};
  Operation unsticking_{[this](int result) { on_stuck_timer(result); }};
};

}  // namespace thaw
