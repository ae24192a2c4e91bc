#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/descriptor_store.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/keep_message.h"

namespace thaw {

/// Has doors opened, and descriptors closed, in processes of their own. They are copies of one that
/// waits for orders, which is small, has one thread and holds nothing of any VM: it is forked in a
/// fraction of the time that a program takes to start. It is no child of this process, and ends
/// with it. One thread.
class DoorMaker {
 public:
  /// `command` has this process's program wait for orders; empty: there are no doors
  /// (kUnsupported).
  explicit DoorMaker(std::vector<std::string> command) : command_(std::move(command)) {}

  /// Starts that process, so that the first door does not wait for it.
  Result<void> start(const UniqueFd& settings);
  /// The process that there is gets no orders any more.
  void give_up() { maker_.reset(); }
  /// Orders a door: a KeepMessage::Kind::kOpenDoor. Returns this end of the connection to it, which
  /// ends when it cannot be made. Starts the process anew where it is gone.
  Result<UniqueFd> open(KeepMessage order, const UniqueFd& settings);
  /// Closes them in such a process: a VMM decides how long the last close of what it has sent
  /// takes, or of what its memory or a queue of its connections hangs on. The caller's are given
  /// back where that cannot be had now.
  std::optional<KeptSession> close(KeptSession kept, const UniqueFd& settings);

 private:
  Result<void> send(const KeepMessage& message, const UniqueFd& settings);

  const std::vector<std::string> command_;
  UniqueFd maker_;  // the connection to the process; not valid: there is none
};

/// What a process finds that was started to make doors.
struct DoorOrders {
  UniqueFd connection;
  UniqueFd settings;
};
/// kInvalidArgument when there is none.
Result<DoorOrders> take_door_orders(std::vector<NamedDescriptor> passed);

}  // namespace thaw
