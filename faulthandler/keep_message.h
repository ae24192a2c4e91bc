#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/kept_session.h"

namespace thaw {

/// One message between a supervisor and its handler, which are of one build or follow one another,
/// or between it and a door (ServedDoor), which are of one build.
struct KeepMessage {
  enum class Kind : std::uint32_t {
    // From the handler.
    kKeep = 1,       // a new session; its VMM may come
    kDrop = 2,       // it has ended
    kServing = 3,    // all kept sessions are served again
    kUpgrade = 4,    // the supervisor becomes the program that is installed now, if that can serve
    kInHand = 9,     // the session that is adopted from now on, or whose VMM has come; 0: none
    kSettings = 10,  // what the next handler is to run by, which stands in kRecord
    // From the supervisor.
    kKept = 5,     // a session of the handler before; session 0 is the control socket, its listener
                   // `value`: how many handlers in a row have stood still on its memory
    kAllKept = 6,  // that is all; `value`: the highest number that a session has had
    kArrived = 7,  // what became of the wait for a session's VMM; without descriptors: it cannot
                   // be served, as `text` says
    kOutage =
        8,  // how long there was no handler: `value`, in nanoseconds; `session`: 1, an upgrade
    kUpgraded = 11,  // `value`: upgrades that have come to their end; `text`: why the last one
                     // failed, empty if it did not
    // From the supervisor to a door.
    kOpenDoor =
        12,  // for this session's VMM; `value`: 1, it may be root's. kConnection: the door's
             // end of the connection on which all that follows is said
    kCloseDoor = 13,  // `value`: a VmmDoor::Queue. The door answers kArrived or kClosed
    kTaken = 14,      // what has arrived is kept
    kCloseAll = 18,   // to who makes doors: these descriptors, after kSignal
    // From a door, beside kArrived.
    kDoorOpen = 15,   // kPidfd: its process
    kClosed = 16,     // no VMM came, and none is let in any more
    kSay = 17,        // `text` is for the log; `value`: its LogLevel
    kVmmInside = 19,  // a VMM has handed over these, and not all of the rest
    kClosing = 20,    // it was told to close, and waits until no connection is in it
  };
  Kind kind{};
  std::uint64_t session = 0;
  std::uint64_t value = 0;
  KeptSession descriptors{};
  std::string text{};  // at most limits::kMaxKeepText bytes of it are sent
};

/// Sends it on a connection of messages (create_message_pair()) without waiting: kTimeout when the
/// kernel does not take it now, kUnavailable when the other end is gone.
Result<void> send_message(const UniqueFd& socket, const KeepMessage& message);
/// Takes one without waiting; nothing when there is none yet. kUnavailable when the other end is
/// gone, kProtocol.
Result<std::optional<KeepMessage>> receive_message(const UniqueFd& socket);

}  // namespace thaw
