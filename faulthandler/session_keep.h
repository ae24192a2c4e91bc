#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/descriptor_store.h"
#include "base/unique_fd.h"
#include "faulthandler/keep_channel.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
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
    /// The handler serves all sessions that there were.
    virtual void on_serving() = 0;
    /// Somebody has asked the handler for an upgrade.
    virtual void on_upgrade() = 0;

   protected:
    ~Owner() = default;
  };
  /// `control` is the listener of the control socket.
  SessionKeep(Loop& loop, UniqueFd control, Owner& owner);
  SessionKeep(const SessionKeep&) = delete;
  SessionKeep& operator=(const SessionKeep&) = delete;

  /// Goes on with what a supervisor before has kept; the control socket is not among it.
  void take_over(std::vector<NamedDescriptor> kept);
  /// A handler has been started, at the other end of this connection. It is told of all sessions.
  Result<void> begin_handler(UniqueFd connection);
  /// It has died. What it has said is still heard: a session that was prepared in its last moment
  /// has been promised. Returns whether it has served. REQUIRES: one that has begun.
  bool end_handler();

  /// Whether some handler has served, of this supervisor or the one before.
  bool has_served() const { return has_served_; }
  std::size_t sessions() const { return sessions_.size(); }
  /// Whether a VMM is in a door, which nobody else could go on with.
  bool busy() const;
  /// Copies of all that another supervisor goes on with. VMMs that this one alone holds on to are
  /// killed. What the handler has said is heard before: REQUIRES: it is dead, and not busy().
  Result<std::vector<NamedDescriptor>> pass_on();
  /// Lets nobody in any more, and kills VMMs whose missing pages would read as zeros without this
  /// process.
  void stop();
  /// At the end of each turn.
  void tidy();

 private:
  struct Entry {
    KeptSession kept;
    std::unique_ptr<VmmDoor> door;
  };
  void on_message(KeepMessage message);
  void keep(std::uint64_t id, KeptSession kept);
  void open_door(std::uint64_t id, Entry& entry);
  void on_arrival(std::uint64_t id, Arrival arrival);
  Result<void> try_to_keep(std::uint64_t id, Arrival& arrival);
  /// `dealt_with`: the handler has had the VMM.
  void drop(std::uint64_t id, bool dealt_with);
  /// A VMM whose memory nobody serves: killed, if that is its policy, and held on to until it has
  /// exited, for without its userfaultfd it could read zeros.
  void let_linger(std::uint64_t id, KeptSession kept);
  void look_at_lingering();
  /// They are dead when it returns.
  void kill_lingering();
  void on_serving();
  void look_whether_served();
  /// As the policy of its VM says, which has come and has nobody.
  static void deal_with_unserved(std::uint64_t id, const KeptSession& kept);
  void remember(std::uint64_t id, const KeptSession& kept);
  void forget(std::uint64_t id, const KeptSession& kept);

  Loop& loop_;
  const UniqueFd control_;
  Owner& owner_;
  std::map<std::uint64_t, Entry> sessions_;
  std::vector<std::unique_ptr<VmmDoor>> closing_doors_;
  std::map<std::uint64_t, KeptSession> lingering_;
  std::uint64_t highest_ = 0;  // number of a session

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
