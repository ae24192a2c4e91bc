#include "faulthandler/served_door.h"

#include <utility>

#include <fmt/core.h>

#include "base/limits.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

ServedDoor::ServedDoor(Loop& loop, KeepMessage order, std::function<void()> on_end)
    : loop_(loop),
      session_(order.session),
      ordered_(std::move(order.descriptors)),
      channel_(
          loop, std::move(ordered_[KeptRole::kConnection]), reserve_,
          [this](const KeepMessage& message) { on_message(message); },
          [this](KeepChannel::End) { on_supervisor_gone(); }),
      door_(loop, ordered_.share(), reserve_,
            {.on_arrival = [this](Arrival arrival) { on_arrival(std::move(arrival)); },
             .on_vmm =
                 [this](KeptSession held) {
                   channel_.send({.kind = KeepMessage::Kind::kVmmInside,
                                  .session = session_,
                                  .descriptors = std::move(held)});
                 },
             .say = [this](LogLevel level, const std::string& line) { say(level, line); }},
            order.value != 0 ? VmmDoor::RootVmm::kAllowed : VmmDoor::RootVmm::kRefused),
      on_end_(std::move(on_end)) {}

void ServedDoor::on_message(const KeepMessage& message) {
  switch (message.kind) {
    case KeepMessage::Kind::kCloseDoor:
      if (static_cast<VmmDoor::Queue>(message.value) == VmmDoor::Queue::kHeard) {
        return close(VmmDoor::Queue::kHeard);
      }
      asked_to_close_ = Clock::now();
      channel_.send({.kind = KeepMessage::Kind::kClosing, .session = session_});
      return close_when_idle();
    case KeepMessage::Kind::kTaken:
      arrived_ = {};
      return end();
    default:
      channel_.give_up("it says what makes no sense");
  }
}

void ServedDoor::say(LogLevel level, const std::string& line) {
  channel_.send({.kind = KeepMessage::Kind::kSay,
                 .session = session_,
                 .value = static_cast<std::uint64_t>(level),
                 .text = line});
}

void ServedDoor::close_when_idle() {
  const bool patient = Clock::now() - asked_to_close_ < limits::kUpgradeDoors;
  if (patient && door_.busy()) {
    return loop_.wait(limits::kUpgradePause, closing_);
  }
  close(VmmDoor::Queue::kLeft);
}

void ServedDoor::close(VmmDoor::Queue queue) {
  if (door_.closed()) return;  // and the supervisor is told already
  if (const std::size_t dropped = door_.candidates_left(); dropped > 0) {
    say(LogLevel::kWarning,
        fmt::format("{} connections that have handed nothing over are dropped", dropped));
  }
  Arrival arrival = door_.close(queue);
  if (arrival.userfaultfd.valid()) return on_arrival(std::move(arrival));
  channel_.send({.kind = KeepMessage::Kind::kClosed, .session = session_});
}

void ServedDoor::on_arrival(Arrival arrival) {
  auto description = arrival.describe();
  arrived_[KeptRole::kOtherUserfaultfds] = std::move(arrival.other_userfaultfds);
  arrived_[KeptRole::kConnection] = std::move(arrival.connection);
  arrived_[KeptRole::kPidfd] = std::move(arrival.vmm.pidfd);
  arrived_[KeptRole::kUserfaultfd] = std::move(arrival.userfaultfd);
  KeepMessage message{.kind = KeepMessage::Kind::kArrived, .session = session_};
  if (description) {
    arrived_[KeptRole::kArrival] = *std::move(description);
  } else {
    message.text = description.error().message();
  }
  message.descriptors = arrived_.share();
  channel_.send(std::move(message));
}

void ServedDoor::on_supervisor_gone() {
  // A service manager may have the listener for another supervisor.
  Arrival arrival = door_.close(VmmDoor::Queue::kLeft);
  if (arrival.userfaultfd.valid()) {
    arrived_[KeptRole::kPidfd] = std::move(arrival.vmm.pidfd);
    arrived_[KeptRole::kUserfaultfd] = std::move(arrival.userfaultfd);
  }
  if (arrived_.has(KeptRole::kUserfaultfd)) {
    const auto killed = kill_process(arrived_[KeptRole::kPidfd]);
    log_error("session {}: no handler has its VMM, which {}", session_,
              killed ? "is killed" : killed.error().message());
    if (killed) {
      static_cast<void>(
          wait_for_exit(arrived_[KeptRole::kPidfd], Deadline::after(limits::kKilledExit)));
    }
  }
  end();
}

void ServedDoor::end() {
  loop_.cancel(closing_);
  channel_.close();
  static_cast<void>(door_.close(VmmDoor::Queue::kLeft));
  if (on_end_) std::exchange(on_end_, {})();
}

bool ServedDoor::finished() const {
  return !on_end_ && door_.finished() && channel_.finished() && !closing_.active();
}

}  // namespace thaw
