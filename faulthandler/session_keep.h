#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/descriptor_store.h"
#include "base/unique_fd.h"
#include "faulthandler/descriptor_reserve.h"
#include "faulthandler/errands.h"
#include "faulthandler/keep_channel.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
#include "faulthandler/memory_record.h"
#include "faulthandler/vmm_door.h"

namespace thaw {

/// What a supervisor holds on to for its handlers, one after the other: the sessions, with a door
/// for each VMM that has not come. It takes VMMs in, tells the handler of them and each new handler
/// of all that there is, and sees to those that nobody serves. It knows no processes. On the loop's
/// thread.
class SessionKeep {
 public:
  class Owner {
   public:
    /// Has a duplicate kept for whoever goes on when this process has died, until it is forgotten.
    virtual void keep(const std::string& name, const UniqueFd& descriptor) = 0;
    virtual void forget(const std::string& name) = 0;
    /// The VMM of a session has come, and may be looked at while the session is kept.
    virtual void show(std::uint64_t, const ErrandSubject&) {}
    virtual void hide(std::uint64_t) {}
    /// The handler serves all sessions that there were.
    virtual void on_serving() = 0;
    /// An operator has asked the handler for an upgrade.
    virtual void on_upgrade() = 0;
    /// The handler runs by these settings from now on, and so shall the next one.
    virtual void on_settings(UniqueFd settings) = 0;
    /// The connection to the handler has ended. If the handler does not end too, it must be
    /// replaced.
    virtual void on_handler_lost(KeepChannel::End end) = 0;

   protected:
    ~Owner() = default;
  };
  /// `control` is the listener of the control socket.
  SessionKeep(Loop& loop, UniqueFd control, Owner& owner);
  SessionKeep(const SessionKeep&) = delete;
  SessionKeep& operator=(const SessionKeep&) = delete;

  /// Goes on with what a supervisor before has kept; the control socket is not among it.
  void take_over(std::vector<NamedDescriptor> kept, OutageCause cause);
  /// Upgrades that were asked for and have come to their end, and why the last one failed.
  struct Upgrades {
    std::uint64_t settled = 0;
    std::string failure{};  // empty: it did not
  };
  /// Another listener of the control socket takes the place of the one that there is.
  void replace_control(UniqueFd control);
  /// Of the supervisors before this one.
  void set_upgrades(Upgrades upgrades) { upgrades_ = std::move(upgrades); }
  const Upgrades& upgrades() const { return upgrades_; }
  /// An upgrade has come to its end. The handler is told.
  void settle_upgrade(std::string failure);
  /// A handler has been started, at the other end of this connection. It is told of all sessions.
  Result<void> begin_handler(UniqueFd connection);
  /// It has died. What it has said is still heard: a session that was prepared in its last moment
  /// has been promised. `crashed`: by its own doing. A session that several handlers in a row have
  /// crashed on is set aside, so that the others are served. Returns whether it has served.
  /// REQUIRES: one that has begun.
  enum class Death { kOther, kCrash };
  bool end_handler(Death death);

  /// The handler that has this pid stands still. If that is in a system call on a session's memory,
  /// it is that session's doing: one on which several stood still in a row is set aside.
  void note_stall(pid_t handler);

  /// Whether some handler has served, of this supervisor or the one before.
  bool has_served() const { return has_served_; }
  std::size_t sessions() const { return sessions_.size(); }
  /// Whether a VMM is in a door, which nobody else could go on with.
  bool busy() const;
  /// All that another supervisor goes on with; this one has it no more. VMMs that this one alone
  /// holds on to are killed. What the handler has said is heard before: REQUIRES: it is dead or
  /// paused, and not busy().
  std::vector<NamedDescriptor> pass_on();
  /// Lets nobody in any more, and kills VMMs whose missing pages would read as zeros without this
  /// process.
  void stop();
  /// At the end of each turn.
  void tidy();

 private:
  struct Entry {
    KeptSession kept;
    std::unique_ptr<VmmDoor> door;
    unsigned crashes = 0;            // of handlers that had it in hand, in a row
    unsigned stalls = 0;             // of handlers on its memory, in a row
    Clock::time_point stalled_at{};  // last
  };
  static bool is_set_aside(const Entry& entry) {
    return entry.crashes >= limits::kMostCrashes || entry.stalls >= limits::kMostStalls;
  }
  void on_message(KeepMessage message);
  void keep(std::uint64_t id, KeptSession kept);
  void open_door(std::uint64_t id, Entry& entry);
  void on_arrival(std::uint64_t id, Arrival arrival);
  /// Neither its VMM nor the session can be gone on with: the one is killed, the other ends.
  void give_up(std::uint64_t id, KeptSession arrived, const std::string& reason);
  void note_crash();
  /// `what`: what fault handlers in a row have done to it.
  static void set_aside(std::uint64_t id, const Entry& entry, unsigned times, const char* what);
  /// `dealt_with`: the handler has had the VMM.
  void drop(std::uint64_t id, bool dealt_with);
  /// A VMM whose memory nobody serves: killed, if that is its policy, and held on to until it has
  /// exited, for without its userfaultfd it could read zeros.
  void let_linger(std::uint64_t id, KeptSession kept);
  void linger(std::uint64_t id, KeptSession kept);
  void look_at_lingering();
  /// They are dead when it returns.
  void kill_lingering();
  void on_serving();
  void look_whether_served();
  /// As the policy of its VM says, which has come and has nobody.
  static void deal_with_unserved(std::uint64_t id, const KeptSession& kept);
  /// The name of the session's socket goes, since its VMM has come or will not come.
  void remove_socket(std::uint64_t id, KeptSession& kept);
  /// `vmm`: the process of the VMM that has come.
  void show_vmm(std::uint64_t id, pid_t vmm, const KeptSession& kept);
  void remember(std::uint64_t id, const KeptSession& kept);
  void forget(std::uint64_t id, const KeptSession& kept);

  Loop& loop_;
  UniqueFd control_;
  Owner& owner_;
  DescriptorReserve reserve_{control_};  // for VMMs that come
  std::map<std::uint64_t, Entry> sessions_;
  std::vector<std::unique_ptr<VmmDoor>> closing_doors_;
  std::map<std::uint64_t, KeptSession> lingering_;
  std::uint64_t highest_ = 0;  // number of a session
  std::uint64_t in_hand_ = 0;  // what the handler says that it is working on; 0: nothing
  Upgrades upgrades_;
  OutageCause outage_cause_ = OutageCause::kDeath;

  std::unique_ptr<KeepChannel> channel_;  // nullptr: there is no handler
  std::vector<std::unique_ptr<KeepChannel>> closing_channels_;
  bool has_served_ = false;
  bool serving_ = false;
  bool nobody_serves_for_long_ = false;
  Clock::time_point died_at_;

  Operation lingering_timer_{[this](int result) {
    if (result == -ETIME) look_at_lingering();
  }};
  Operation nobody_serves_{[this](int result) {
    if (result == -ETIME) look_whether_served();
  }};
};

}  // namespace thaw
