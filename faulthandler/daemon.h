#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/error.h"
#include "faulthandler/control_commands.h"
#include "faulthandler/damage_reports.h"
#include "faulthandler/demand_link.h"
#include "faulthandler/host_images.h"
#include "faulthandler/loop.h"
#include "faulthandler/page_servers.h"
#include "faulthandler/placement.h"
#include "faulthandler/prefetch_link.h"
#include "faulthandler/restore_reports.h"
#include "faulthandler/sent_errands.h"
#include "faulthandler/session_table.h"
#include "faulthandler/snapshot_source.h"
#include "faulthandler/task_queue.h"
#include "faulthandler/uploader.h"
#include "faulthandler/worker_pool.h"
#include "format/control.h"

namespace thaw {

struct DaemonOptions {
  std::vector<ServerAddress> servers;     // of pages; at most limits::kMaxServers
  std::vector<std::string> unresolved{};  // names of page servers whose addresses are not known
  std::string name_space;
  std::uint32_t around = 1;  // largest fault-around window in pages, a power of two
  /// Of so many restores of a snapshot that has a working set, one records all the same, or of
  /// eight while few recordings made the set; 0: none.
  std::uint32_t record_every = 0;
  PlacementOptions placement;
  ByteCount image_budget;  // of the host images together
  ByteCount index_budget;  // of page maps together
};

/// The fault handler: its sessions, its links to the page servers, and what control commands do
/// with them. prepare() and handle() may be called from any thread, and prepare() does its network
/// and file work there; everything else happens on the loop's thread.
class Daemon final : private SessionTable::Owner {
 public:
  /// `supervisor` is this end of the connection to it. `on_serving` gets the control socket's
  /// listener once what other handlers have left is served again, and each that replaces it;
  /// `on_alone` is called when the supervisor has died: no new sessions then, and an end when the
  /// last VM has exited.
  struct Supervised {
    UniqueFd supervisor;
    UniqueFd errands;  // another connection to it: SentErrands
    std::function<void(UniqueFd control)> on_serving;
    std::function<void()> on_alone;
  };
  Daemon(Loop& loop, TaskQueue& tasks, WorkerPool& workers, Supervised supervised,
         DaemonOptions options);
  virtual ~Daemon();

  /// Makes a session. Nothing of it is left after a failure. kStopped soon after a stop was
  /// requested.
  Preparation prepare(const control::Prepare& request, SessionObjects objects,
                      const std::stop_token& stop);
  /// Carries out another request and waits for its result. REQUIRES: no control::Prepare.
  ControlReply handle(const ControlRequest& request);

  /// From now on these are the page servers, and names without addresses; a handler that follows
  /// runs by `settings`. On the loop's thread.
  void take_servers(const std::vector<ServerAddress>& servers, std::vector<std::string> unresolved,
                    UniqueFd settings);

  /// On the loop's thread. Runs until all sessions have ended after request_stop().
  void run();
  /// The first time: no new sessions, and an end when the last VM has exited. The second time: the
  /// VMs are killed, since without their handler they would hang. On the loop's thread.
  void request_stop();

 private:
  void drain(control::StopMode mode);
  Result<Preparation> try_to_prepare(const control::Prepare& request, SessionObjects objects,
                                     const std::stop_token& stop);
  /// The session's place in the reply to whoever has it prepared.
  struct Added {
    std::uint64_t session;
    std::uint64_t generation;
  };
  /// The connections to the page servers for one origin.
  struct Links {
    DemandLink demand;
    PrefetchLink prefetch;
    Links(Loop& loop, const ServerPlaces& servers, const Origin& origin)
        : demand(loop, {}, origin), prefetch(loop, {}, origin, demand) {
      demand.set_servers(servers);
      prefetch.set_servers(servers);
    }
  };
  struct NewSession {
    SessionOptions options;
    MemoryRecord record;
    KeptSession kept;
    uid_t user;                        // of its VMM
    std::size_t open_descriptors = 0;  // of this process
  };
  Result<Added> add_session(NewSession added, MemoryUse use);
  /// Waits until the page servers keep the snapshot, which could be deleted under its VM before.
  /// Where none of them answers the session goes on, as it does when they go away later.
  void await_pin(const SnapshotImage& image, const std::stop_token& stop);
  /// A session whose VMM could not be taken in for want of descriptors is not begun. `open`: those
  /// of this process.
  Result<void> check_descriptors(std::size_t open, MemoryUse use) const;
  SessionOptions session_options(const control::Prepare& request, const PreparedSnapshot& snapshot,
                                 WindowUse use) const;
  void set_up(SessionOptions& options, Links& server);
  HandlerReport list() const;
  /// How the server does for the origin that it does worst for.
  ServerReport report(std::size_t server) const;
  Result<void> stop_session(const control::Stop& request);
  /// Ends a session unless its VMM has come: kBusy.
  Result<void> end_unused(std::uint64_t id);
  /// kLimitExceeded when limits::kMaxLinks are in use.
  Result<Links*> links(const Origin& origin);
  void report_damage(Links& links, const Origin& origin);
  /// What the window after the restore is for. Any thread.
  WindowUse window_use(const control::Prepare& request, const PreparedSnapshot& snapshot);
  void on_attached() override { placement_.on_restore(); }
  void on_faults(pid_t vmm) override { placement_.on_faults(vmm); }
  void on_window_end(Session& session, std::vector<Touch> touches) override {
    reports_.on_window_end(session, std::move(touches));
  }
  void on_ended() override { any_ended_ = true; }
  Errands& errands() override { return errands_; }
  Result<SessionTable::Service> adopt(const MemoryRecord& record, const KeptSession& kept) override;
  Result<HostImage*> adopt_image(Links& server, const ServeOptions& options, uid_t user,
                                 const KeptSession& kept);
  void on_serving(UniqueFd control) override { on_serving_(std::move(control)); }
  void on_alone() override;

  void note_recording(std::uint64_t session, RecordingState state);
  void after_turn();
  /// Forgets sessions that have ended, and stops the loop when the last one has.
  void forget_ended();
  void watch_tasks(int result);
  void watch_workers(int result);

  Loop& loop_;
  TaskQueue& tasks_;
  WorkerPool& workers_;
  PlainBuffers buffers_;
  const DaemonOptions options_;
  ServerPlaces places_;
  std::vector<std::string> unresolved_;
  PageServers servers_;
  SnapshotSource source_;
  Placement placement_;
  std::map<Origin, std::unique_ptr<Links>> links_;
  HostImages images_;
  std::uint64_t last_generation_ = 0;
  bool any_ended_ = false;  // and was not forgotten yet
  bool draining_ = false;   // no new sessions, and an end with the last one
  bool asked_to_stop_ = false;
  const std::function<void(UniqueFd)> on_serving_;
  const std::function<void()> on_alone_;
  SentErrands errands_;
  SessionTable sessions_;
  Operation task_watch_;
  Operation worker_watch_;

  std::mutex restores_mutex_;
  std::map<std::pair<Origin, SnapshotId>, std::uint64_t> restores_;  // guarded by it
  RestoreReports reports_;
  DamageReports damage_;
  Uploader uploader_;  // the last member: its thread posts tasks
};

}  // namespace thaw
