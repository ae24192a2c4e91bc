#pragma once

#include <map>
#include <memory>
#include <optional>
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
/// for each VMM that has not come. It tells the handler of VMMs that come and each new handler of
/// all that there is, and sees to those that no handler serves. It knows no processes.
///
/// Doors are in processes of their own (ServedDoor): none is waited for. One that does not answer
/// in time is left alone, and no VMM gets in by it. On the loop's thread.
class SessionKeep {
 public:
  class Owner {
   public:
    /// Has a duplicate kept for whoever goes on when this process has died, until it is forgotten.
    virtual void keep(const std::string& name, const UniqueFd& descriptor) = 0;
    virtual void forget(const std::string& name) = 0;
    /// Has a door made: a KeepMessage::Kind::kOpenDoor. Returns this end of the connection to it.
    virtual Result<UniqueFd> open_door(KeepMessage order) = 0;
    /// What makes doors stands still.
    virtual void renew_doors() {}
    /// Closes what is left of a session. This process must not wait: its VMM decides how long the
    /// last close takes.
    virtual void close(KeptSession kept) = 0;
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

  /// Goes on with what a supervisor before has kept; the control socket is not among it. `since`:
  /// when the handler before stopped to serve; nothing: it is not known. After an upgrade no VMM is
  /// let in until a handler serves, since until then this process may have to become the one
  /// before.
  void take_over(std::vector<NamedDescriptor> kept, OutageCause cause,
                 std::optional<Clock::time_point> since = std::nullopt);
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
  /// That handler does not die, in such a call: the session would do the same to the next one.
  void note_unkillable(pid_t handler);

  /// Whether some handler has served, of this supervisor or the one before.
  bool has_served() const { return has_served_; }
  std::size_t sessions() const { return sessions_.size(); }
  /// Whether a door is open or being closed, which the next supervisor could not go on with.
  bool busy() const;
  /// Doors close as soon as no VMM is in them. Connections that have handed over nothing are
  /// dropped after a while, and all others wait to be accepted by the next supervisor.
  void close_doors();
  /// Takes that back: of all sessions whose VMM is awaited.
  void open_doors();
  /// All that another supervisor goes on with, VMMs without a session included; this one has it no
  /// more. Waits for nothing. What the handler has said is heard before: REQUIRES: it is dead or
  /// paused, and not busy().
  std::vector<NamedDescriptor> pass_on();
  /// Lets nobody in any more, and kills VMMs whose missing pages would read as zeros without this
  /// process. REQUIRES: there is no handler.
  void stop();
  /// Whether one of them could not be killed, or another process has its memory: then this process
  /// must not end, and what it holds is looked at now and then. Or a door has not answered yet.
  bool is_needed() const { return !lingering_.empty() || !closing_.empty(); }
  /// At the end of each turn.
  void tidy();

 private:
  /// A door that has not answered.
  struct Door {
    std::unique_ptr<KeepChannel> channel;
    std::optional<uid_t> user;  // who may come in; nothing: it cannot be known
    UniqueFd process{};         // not valid: it has not said so yet
    KeptSession inside{};       // of a VMM whose handoff is not whole, from kUserfaultfd and kPidfd
    bool told_to_close = false;
    Clock::time_point answer_by{};  // or say at least that it is open
  };
  /// The process of one that has answered, or does not.
  struct LeavingDoor {
    UniqueFd process;
    std::optional<uid_t> user;
    bool answered = false;  // then it has nothing of anyone's any more
    bool said = false;      // that it hangs
    Clock::time_point since = Clock::now();
  };
  struct Entry {
    KeptSession kept;
    std::optional<Door> door;
    unsigned door_failures = 0;
    unsigned crashes = 0;            // of handlers that had it in hand, in a row
    unsigned stalls = 0;             // of handlers on its memory, in a row
    Clock::time_point stalled_at{};  // last
  };
  static bool is_set_aside(const Entry& entry) {
    return entry.crashes >= limits::kMostCrashes || entry.stalls >= limits::kMostStalls;
  }
  void on_message(KeepMessage message);
  void keep(std::uint64_t id, KeptSession kept);
  /// Of a session that has none, and is awaited.
  void open_door(std::uint64_t id);
  Result<void> try_to_open_door(std::uint64_t id, Entry& entry);
  void on_no_door(std::uint64_t id, const Error& error);
  Entry* find(std::uint64_t id);
  void on_door_message(std::uint64_t id, KeepMessage message);
  void on_door_gone(std::uint64_t id);
  void tell_to_close(std::uint64_t id, Door& door, VmmDoor::Queue queue, Nanoseconds patience);
  /// It is over with the door.
  enum class Answer { kGiven, kNone };
  void end_door(Entry& entry, Answer answer);
  void end_door(Door door, Answer answer);
  /// It is over without an answer. A VMM that is half in, or a session that was to close, is dealt
  /// with. Returns whether the session waits for another door.
  bool lose_door(std::uint64_t id, Entry& entry, const std::string& reason);
  void on_door_answer(std::uint64_t id, Entry& entry, KeepMessage answer);
  void look_at_doors();
  void look_at_leaving_doors();
  static bool hangs(const LeavingDoor& door);
  void on_arrival(std::uint64_t id, KeptSession arrived, const std::string& failure);
  /// Neither its VMM nor the session can be gone on with: the one is killed, the other ends.
  void give_up(std::uint64_t id, KeptSession arrived, const std::string& reason);
  void note_crash();
  /// Whose memory the handler's system call is on; end(): no session's, or it cannot be known.
  std::map<std::uint64_t, Entry>::iterator in_call_of(pid_t handler);
  /// `what`: what fault handlers in a row have done to it.
  static void set_aside(std::uint64_t id, const Entry& entry, unsigned times, const char* what);
  /// `dealt_with`: the handler has had the VMM.
  void drop(std::uint64_t id, bool dealt_with);
  /// Of a session whose door was to close: this has come of its VMM.
  void close_with(std::uint64_t id, KeptSession arrived);
  /// What is left of a session that is over: its door closes first.
  void close(std::uint64_t id, Entry entry);
  /// A VMM whose memory is not served: killed, if that is its policy, and held on to until no
  /// process has the memory, which could read zeros without its userfaultfd.
  void let_linger(std::uint64_t id, KeptSession kept);
  void linger(std::uint64_t id, KeptSession kept);
  void look_at_lingering();
  void on_serving();
  void look_whether_served();
  /// As the policy of its VM says, which has come and has nobody.
  static void deal_with_unserved(std::uint64_t id, const KeptSession& kept);
  /// The name of the session's socket goes, since its VMM has come or will not come.
  void remove_socket(std::uint64_t id, KeptSession& kept);
  /// `vmm`: the process of the VMM that has come.
  void show_vmm(std::uint64_t id, pid_t vmm, const KeptSession& kept);
  void remember(std::uint64_t id, const KeptSession& kept);
  /// It is over with the session.
  void forget(std::uint64_t id, KeptSession kept);

  Loop& loop_;
  UniqueFd control_;
  Owner& owner_;
  DescriptorReserve reserve_;  // for VMMs that come
  std::map<std::uint64_t, Entry> sessions_;
  std::map<std::uint64_t, Entry> closing_;  // sessions that are over, and their door is not
  std::vector<LeavingDoor> leaving_doors_;
  bool doors_are_open_ = true;
  bool stopped_ = false;
  struct Lingering {
    KeptSession kept;
    bool outlives_vmm = false;  // another process has its memory, and the log says so
  };
  std::map<std::uint64_t, Lingering> lingering_;
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

  Operation door_timer_{[this](int result) {
    if (result == -ETIME) look_at_doors();
  }};
  Operation door_retry_{[this](int result) {
    if (result == -ETIME && doors_are_open_) open_doors();
  }};
  Operation lingering_timer_{[this](int result) {
    if (result == -ETIME) look_at_lingering();
  }};
  Operation nobody_serves_{[this](int result) {
    if (result == -ETIME) look_whether_served();
  }};
};

}  // namespace thaw
