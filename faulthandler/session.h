#pragma once

#include <memory>
#include <optional>
#include <string>

#include <poll.h>

#include "base/process.h"
#include "base/socket.h"
#include "faulthandler/arrival.h"
#include "faulthandler/errands.h"
#include "faulthandler/host_image.h"
#include "faulthandler/kept_session.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
#include "faulthandler/own_thread.h"
#include "faulthandler/vm_memory.h"
#include "format/control.h"

namespace thaw {

struct SessionOptions {
  std::uint64_t id = 0;
  std::string socket_path;
  UnservablePolicy on_unservable = UnservablePolicy::kKill;
  std::chrono::milliseconds unservable_after{0};  // that a page has waited; 0: never
  std::string trace_out;                          // file for a trace of the window; empty: none
  ServeOptions serve;
  HostImage* shared = nullptr;  // what its VM maps; nullptr: it has memory of its own
};

/// One VM being served: takes its VMM's handoff, has its memory served until the VMM has exited,
/// and decides what becomes of a VM that cannot be served.
///
/// The userfaultfd is closed only when no process has the memory any more: closed earlier, missing
/// pages would read as zeros in one that kept no copy of it. The VMM may have handed over the
/// memory of another process, or have forked one with its memory: these may outlive it. On the
/// loop's thread.
class Session final : private VmMemory::Owner {
 public:
  /// Who is told what happens to it.
  class Owner {
   public:
    virtual void on_attached() = 0;
    /// Faults of this VMM were read; called once for all that were.
    virtual void on_faults(pid_t vmm) = 0;
    /// The window after the restore is over.
    virtual void on_window_end(Session& session, std::vector<Touch> touches) = 0;
    /// It has ended, and may be destroyed once finished().
    virtual void on_ended() = 0;
    /// Who has errands done that are about its VMM.
    virtual Errands& errands() = 0;

   protected:
    ~Owner() = default;
  };

  Session(Loop& loop, DemandLink& link, SessionOptions options, MemoryRecord record, Owner& owner);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  virtual ~Session() = default;

  /// The socket that its VMM is to connect to, as `kept` has it. Removed if the session ends before
  /// one has come; the supervisor does that too, and where this process may not. Before start().
  void own_socket(KeptSession kept) { socket_ = std::move(kept); }
  /// A fault handler has stood still on its memory. Before start().
  void distrust() { memory_->distrust(); }
  /// Begins to get ready for the VMM.
  void start();
  /// The VMM has come, or will not come. One whose memory was served before, as the record says, is
  /// served on. REQUIRES: start().
  void on_arrival(Arrival arrival);
  /// Ends a session whose VMM is not there or dead; kBusy for a living one, unless it is to be
  /// killed: then the session ends when the VMM has exited. kBusy also while another process has
  /// the memory of a VMM that is dead.
  Result<void> stop(control::StopMode mode);

  SessionState state() const { return state_; }
  /// Whether on_arrival() has taken effect: it answers for what came with it.
  bool has_arrived() const { return has_arrived_; }
  const SessionOptions& options() const { return options_; }
  const MemoryRecord& record() const { return record_; }
  /// The layout of guest memory as it was handed over; empty before.
  const std::vector<RegionShape>& layout() const { return layout_; }
  /// Nobody served it for so long.
  void note_outage(Nanoseconds time, OutageCause cause);
  void set_recording(RecordingState state) { recording_ = state; }
  /// Has the content of a memory file appear as the trace that it was prepared for.
  void write_trace(UniqueFd content);
  /// Whether it has ended and may be destroyed.
  bool finished() const;
  SessionReport report() const;

 private:
  /// What has come can be checked.
  void settle_arrival(Arrival arrival);
  Result<void> attach(std::string_view handoff, UniqueFd& userfaultfd);
  void watch_vmm();
  /// "process 1234".
  std::string vmm_text() const;
  /// Ends the session, or if a VM depends on it, keeps what it holds until the VM has gone.
  void refuse_handoff(const Error& error);

  /// Stops the VM for good reason, as its policy says, and remembers why.
  pid_t vmm() const override { return vmm_.pid; }
  bool begin_errand(ErrandTask& task, Errand errand) override;
  void give_up(const std::string& reason) override;
  void stop_vm(const std::string& reason) override;
  Unservable on_unservable(PageIndex page, const std::string& reason) override;
  /// Looks for pages that have waited too long, and comes back.
  void watch_waiting();
  void on_memory_short(const std::string& what) override;
  void on_memory_slow(const std::string& what) override;
  void on_faults() override { owner_.on_faults(vmm_.pid); }
  void on_window_end(std::vector<Touch> touches) override;
  void on_detached() override;
  void on_traced(const ErrandResult& written);
  void on_vmm_exit(int result);
  void end_with(const std::optional<ExitStatus>& status);
  void on_farewell(int result);
  void remove_socket();
  void kill_vmm();
  /// On a thread of its own, since a process that has the memory can make it take long.
  void look_who_needs_memory();
  /// Holds on to the memory until no process needs it.
  void linger();
  void end(std::string outcome);

  Loop& loop_;
  const SessionOptions options_;
  MemoryRecord record_;
  Owner& owner_;
  KeptSession socket_;  // until its VMM has come
  SessionState state_ = SessionState::kPrepared;
  std::string outcome_;
  std::string vmm_exit_;  // how the VMM ended; empty while it lives
  bool has_arrived_ = false;
  bool killed_on_request_ = false;
  bool gave_up_memory_ = false;  // the VMM did, and waits for the end of the connection
  RemoveEvents remove_events_ = RemoveEvents::kReported;
  std::vector<RegionShape> layout_;
  RecordingState recording_ = RecordingState::kNone;

  // Kept open: Firecracker 1.12 and later exit when it ends, and a VMM that said farewell waits for
  // that. So it is closed after the userfaultfd.
  UniqueFd connection_;
  PeerProcess vmm_{.pid = 0, .pidfd = UniqueFd()};
  // Held until the VMM has exited.
  UniqueFd refused_userfaultfd_;
  UniqueFd other_userfaultfds_;
  std::optional<Arrival> unchecked_;  // until its memory can be checked
  const std::unique_ptr<VmMemory> memory_;

  ErrandTask exit_look_{[this](const ErrandResult& seen) { end_with(seen.exit); }};
  ErrandTask tracing_{[this](const ErrandResult& written) { on_traced(written); }};
  bool waits_long_ = false;  // for a page, and the log says so
  Operation waiting_{[this](int) { watch_waiting(); }};
  Operation exiting_{[this](int result) { on_vmm_exit(result); }};
  Operation leaving_{[this](int result) { on_farewell(result); }};
  bool is_needed_ = false;     // the memory, by a process: look_who_needs_memory()
  unsigned needed_looks_ = 0;  // in a row that have found one
  OwnThread looking_{loop_, [this] { look_who_needs_memory(); }, [this] { linger(); }};
  Operation lingering_{[this](int result) {
    if (result == -ETIME) looking_.start();
  }};
};

}  // namespace thaw
