#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/descriptor_store.h"
#include "base/process.h"
#include "base/unique_fd.h"
#include "faulthandler/keep_channel.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
#include "faulthandler/vmm_door.h"

namespace thaw {

/// Starts the process that serves the VMs of this host, holds on to all that must outlive it, and
/// starts another one when it dies: that one takes over every session, and the guests go on. VMMs
/// come in here, so that none is lost in between. It does no more than that, so that it has little
/// to die of. One thread.
class Supervisor {
 public:
  struct Commands {
    /// Starts a handler, which finds its end of the connection as ChildProcess::kChildDescriptor.
    std::vector<std::string> handler;
    /// Starts a supervisor.
    std::vector<std::string> supervisor;
  };
  /// `control` is the listener of the control socket.
  Supervisor(Loop& loop, UniqueFd control, Commands commands);
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// Goes on with what a supervisor before has kept, the service manager's descriptors or those
  /// that came with an upgrade; the control socket is not among them. Before run().
  void take_over(std::vector<NamedDescriptor> kept);
  /// Runs until the handler has ended by itself, or could not even begin. Returns its exit code.
  /// `on_ready` is called when the first handler serves.
  int run(std::function<void()> on_ready);
  /// Passes a signal on to the handler.
  void signal(int number);

 private:
  struct Entry {
    KeptSession kept;
    std::unique_ptr<VmmDoor> door;
  };

  void start_handler();
  Result<void> try_to_start();
  void on_handler_exit(int result);
  void on_message(KeepMessage message);
  void keep(std::uint64_t id, KeptSession kept);
  void open_door(std::uint64_t id, Entry& entry);
  void on_arrival(std::uint64_t id, Arrival arrival);
  Result<void> try_to_keep(std::uint64_t id, Arrival& arrival);
  /// `dealt_with`: the handler has had the VMM.
  void drop(std::uint64_t id, bool dealt_with);
  /// A VMM whose memory nobody serves: killed, if that is its policy, and held on to until it has
  /// exited, for without its userfaultfd it could read zeros.
  void let_linger(KeptSession kept);
  void look_at_lingering();
  void on_serving();
  void on_nobody_serves();
  /// Becomes the program that is installed now, as soon as no VMM is in a door.
  void upgrade();
  void remember(std::uint64_t id, const KeptSession& kept);
  void stop(int exit_code);
  void tidy();

  Loop& loop_;
  const UniqueFd control_;
  const Commands commands_;
  ServiceManager manager_;
  std::function<void()> on_ready_;
  std::map<std::uint64_t, Entry> sessions_;
  std::vector<std::unique_ptr<VmmDoor>> closing_doors_;
  std::vector<KeptSession> lingering_;
  std::uint64_t highest_ = 0;  // number of a session

  std::optional<ChildProcess> handler_;
  std::unique_ptr<KeepChannel> channel_;
  std::vector<std::unique_ptr<KeepChannel>> closing_channels_;
  bool has_served_ = false;  // some handler, of this supervisor or the one before
  bool announced_ = false;   // that there is one
  bool serving_ = false;
  Clock::time_point died_at_;
  Nanoseconds pause_{limits::kRestartFirst};
  int last_signal_ = 0;  // 0: none came
  int exit_code_ = 0;

  Operation exiting_{[this](int result) { on_handler_exit(result); }};
  Operation restarting_{[this](int result) {
    if (result == -ETIME) start_handler();
  }};
  Operation lingering_timer_{[this](int result) {
    if (result == -ETIME) look_at_lingering();
  }};
  Operation upgrading_{[this](int result) {
    if (result == -ETIME) upgrade();
  }};
  Operation nobody_serves_{[this](int result) {
    if (result == -ETIME) on_nobody_serves();
  }};
};

}  // namespace thaw
