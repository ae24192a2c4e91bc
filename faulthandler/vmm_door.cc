#include "faulthandler/vmm_door.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/limits.h"
#include "base/log.h"

namespace thaw {

VmmDoor::VmmDoor(Loop& loop, UniqueFd listener, UniqueFd image,
                 std::function<void(Arrival)> on_arrival)
    : loop_(loop),
      listener_(std::move(listener)),
      image_(std::move(image)),
      on_arrival_(std::move(on_arrival)) {
  await_connection();
  loop_.wait(limits::kAcceptTimeout, patience_);
}

void VmmDoor::on_connection(int result) {
  if (!open_) return;
  if (result < 0) return refuse(Error(ErrorCode::kIo, "waiting for the VMM failed", -result));
  auto accepted = accept_connection(listener_, Deadline::after(Nanoseconds(0)));
  if (!accepted && accepted.error().code() == ErrorCode::kTimeout) return await_connection();
  if (!accepted) {
    // Out of descriptors, mostly: the VMM stays in the queue, and polling tells of it all the time.
    if (accept_pause_ == limits::kAcceptPauseFirst) {
      log_error("a VMM has to wait: {}", accepted.error().message());
    }
    return loop_.wait(accept_pause_, resting_);
  }
  connection_ = *std::move(accepted);
  auto peer = peer_process(connection_);
  if (!peer) return refuse(peer.error());
  vmm_ = *std::move(peer);
  if (const auto greeted = greet(); !greeted) return refuse(greeted.error());
  loop_.poll(connection_, POLLIN, receiving_);
  loop_.cancel(patience_);
}

void VmmDoor::on_rested() {
  if (!open_) return;
  accept_pause_ = std::min<Nanoseconds>(accept_pause_ * 2, limits::kAcceptPauseMost);
  await_connection();
}

/// A VMM that is to map the host image gets it now.
Result<void> VmmDoor::greet() {
  if (!image_.valid()) return {};
  const std::array descriptors{image_.get()};
  return send_with_descriptors(connection_, as_bytes(kHostImageGreeting), descriptors,
                               Deadline::after(Nanoseconds(0)));
}

void VmmDoor::on_handoff(int result) {
  if (!open_) return;
  if (result < 0) return refuse(Error(ErrorCode::kIo, "receiving the handoff failed", -result));
  auto handoff = receiver_.receive(connection_);
  if (!handoff) return refuse(handoff.error());
  if (!*handoff) return loop_.poll(connection_, POLLIN, receiving_);
  Arrival arrival;
  arrival.userfaultfd = std::move((*handoff)->userfaultfd);
  arrival.handoff = std::move((*handoff)->text);
  arrival.left = (*handoff)->left;
  arrive(std::move(arrival));
}

void VmmDoor::on_patience_over(int result) {
  if (!open_) return;
  if (result == -ECANCELED) {
    if (connection_.valid()) loop_.wait(limits::kHandoffTimeout, patience_);
    return;
  }
  refuse(connection_.valid() ? Error(ErrorCode::kTimeout, "the handoff was never completed")
                             : Error(ErrorCode::kTimeout, "no VMM connected"));
}

void VmmDoor::refuse(Error error) {
  Arrival arrival;
  arrival.userfaultfd = receiver_.take_userfaultfd();
  arrival.refusal = std::move(error);
  arrive(std::move(arrival));
}

void VmmDoor::arrive(Arrival arrival) {
  arrival.connection = std::move(connection_);
  arrival.vmm = std::move(vmm_);
  static_cast<void>(close());
  on_arrival_(std::move(arrival));
}

Arrival VmmDoor::close() {
  open_ = false;
  for (Operation* operation : {&accepting_, &resting_, &receiving_, &patience_}) {
    loop_.cancel(*operation);
  }
  Arrival arrival;
  arrival.userfaultfd = receiver_.take_userfaultfd();
  arrival.connection = std::move(connection_);
  arrival.vmm = std::move(vmm_);
  return arrival;
}

bool VmmDoor::finished() const {
  return !open_ && !accepting_.active() && !resting_.active() && !receiving_.active() &&
         !patience_.active();
}

}  // namespace thaw
