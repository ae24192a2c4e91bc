#pragma once

#include <functional>
#include <string>

#include "base/clock.h"
#include "base/log.h"
#include "faulthandler/descriptor_reserve.h"
#include "faulthandler/keep_channel.h"
#include "faulthandler/loop.h"
#include "faulthandler/vmm_door.h"

namespace thaw {

/// A door that a supervisor has ordered, and the connection on which it answers. What a VMM sends
/// can make this thread wait, and no other: the supervisor only gets a handoff that is whole, or
/// the word that there is none.
///
/// Until the supervisor has it, the VMM's memory depends on this process. If the supervisor is
/// gone by then, the VMM is killed. On the loop's thread.
class ServedDoor {
 public:
  /// `order` is a KeepMessage::Kind::kOpenDoor. `on_end` is called once: nothing more comes of the
  /// door, which may be destroyed as soon as it is finished().
  ServedDoor(Loop& loop, KeepMessage order, std::function<void()> on_end);
  ServedDoor(const ServedDoor&) = delete;
  ServedDoor& operator=(const ServedDoor&) = delete;

  /// For the supervisor.
  void send(KeepMessage message) { channel_.send(std::move(message)); }
  /// Whether a VMM may be in here.
  bool busy() const { return door_.busy() || arrived_.has(KeptRole::kUserfaultfd); }
  bool finished() const;

 private:
  void on_message(const KeepMessage& message);
  void on_supervisor_gone();
  void on_arrival(Arrival arrival);
  void say(LogLevel level, const std::string& line);
  /// Closes it as soon as no connection is in it, and after limits::kUpgradeDoors in any case.
  void close_when_idle();
  void close(VmmDoor::Queue queue);
  void end();

  Loop& loop_;
  const std::uint64_t session_;
  KeptSession ordered_;
  DescriptorReserve reserve_;
  KeepChannel channel_;
  VmmDoor door_;
  KeptSession arrived_;  // until the supervisor has it
  Clock::time_point asked_to_close_{};
  std::function<void()> on_end_;

  Operation closing_{[this](int result) {
    if (result == -ETIME) close_when_idle();
  }};
};

}  // namespace thaw
