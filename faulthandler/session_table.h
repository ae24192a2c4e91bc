#pragma once

#include <deque>
#include <map>
#include <memory>

#include "base/error.h"
#include "faulthandler/keep_channel.h"
#include "faulthandler/session.h"

namespace thaw {

/// The sessions of a handler, and what it says of them to its supervisor: that one keeps what
/// whoever comes after this process needs of them, tells of those that were there before it, and of
/// the VMMs that come. On the loop's thread.
class SessionTable {
 public:
  /// What serves a session.
  struct Service {
    DemandLink& link;
    SessionOptions options;  // all but the number
  };
  class Owner : public Session::Owner {
   public:
    /// How a session of the handler before, whose record this is, is served on.
    virtual Result<Service> adopt(const MemoryRecord& record, const KeptSession& kept) = 0;
    /// All sessions that there were are served. `control` is the listener of the control socket.
    /// Called again with another one, that takes the place of the first.
    virtual void on_serving(UniqueFd control) = 0;
    /// The supervisor has died: no new sessions, and an end when the last VM has exited.
    virtual void on_alone() = 0;

   protected:
    ~Owner() = default;
  };
  /// `supervisor` is this end of the connection to it.
  SessionTable(Loop& loop, UniqueFd supervisor, Owner& owner);
  SessionTable(const SessionTable&) = delete;
  SessionTable& operator=(const SessionTable&) = delete;

  /// Begins to serve a new one. The supervisor gets `kept`, and lets its VMM in. Returns its
  /// number.
  std::uint64_t add(Service service, MemoryRecord record, KeptSession kept);
  const std::map<std::uint64_t, std::unique_ptr<Session>>& all() const { return sessions_; }
  /// nullptr: there is none of this number.
  Session* find(std::uint64_t id) const;
  /// Those that have ended last, the oldest first.
  std::deque<SessionReport>& ended() { return ended_; }
  const std::deque<SessionReport>& ended() const { return ended_; }
  /// For how long nobody served before this process did.
  Nanoseconds outage() const { return outage_; }
  /// Of all that have ended.
  const SessionTotals& ended_totals() const { return ended_totals_; }
  /// Forgets those that have ended; false when some of them have to be looked at again.
  bool forget_ended();
  /// Asks the supervisor to become the program that is installed now. Returns the number of this
  /// upgrade: it has come to its end when as many have been settled.
  std::uint64_t ask_for_upgrade();
  std::uint64_t settled_upgrades() const { return settled_upgrades_; }
  /// Why the last one failed; empty: it did not.
  const std::string& upgrade_failure() const { return upgrade_failure_; }
  /// What the next handler is to run by.
  void keep_settings(UniqueFd settings);

 private:
  void on_message(KeepMessage message);
  /// Goes on with a session of the handler before. One that nobody can go on with is stopped.
  /// `stalls`: handlers that have stood still on its memory.
  void adopt(std::uint64_t id, KeptSession kept, std::uint64_t stalls);
  Result<void> try_to_adopt(std::uint64_t id, KeptSession& kept, std::uint64_t stalls);
  void on_arrival(std::uint64_t id, KeptSession arrived, const std::string& text);
  Session& make_session(std::uint64_t id, Service service, MemoryRecord record);
  /// A crash from now on until another one is named is this session's doing; 0: none's.
  void take_in_hand(std::uint64_t id);

  Loop& loop_;
  Owner& owner_;
  std::map<std::uint64_t, std::unique_ptr<Session>> sessions_;
  std::deque<SessionReport> ended_;
  SessionTotals ended_totals_;
  Nanoseconds outage_{0};
  std::uint64_t next_ = 1;
  std::uint64_t settled_upgrades_ = 0;
  std::string upgrade_failure_;
  UniqueFd control_;  // until on_serving()
  bool serving_ = false;
  DescriptorReserve reserve_;
  KeepChannel supervisor_;
};

}  // namespace thaw
