#include "faulthandler/vmm_door.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <ranges>
#include <span>
#include <utility>

#include <fmt/core.h>

#include "base/limits.h"
#include "base/passed_descriptors.h"
#include "base/place.h"
#include "format/farewell.h"

namespace thaw {

VmmDoor::Candidate::Candidate(VmmDoor& door, UniqueFd socket, PeerProcess peer)
    : connection(std::move(socket)),
      vmm(std::move(peer)),
      receiving([this, &door](int result) { door.on_handoff(*this, result); }),
      patience([this, &door](int result) { door.on_silence(*this, result); }) {}

VmmDoor::VmmDoor(Loop& loop, KeptSession kept, DescriptorReserve& reserve, Calls calls,
                 RootVmm root_vmm)
    : loop_(loop),
      kept_(std::move(kept)),
      listener_(kept_[KeptRole::kListener]),
      image_(kept_[KeptRole::kImageView]),
      reserve_(reserve),
      calls_(std::move(calls)),
      root_vmm_(root_vmm) {
  await_connection();
  loop_.wait(limits::kAcceptTimeout, patience_);
}

void VmmDoor::on_connection(int result) {
  if (!open_ || chosen_ != nullptr) return;
  if (result < 0) {
    Arrival arrival;
    arrival.refusal = Error(ErrorCode::kIo, "waiting for the VMM failed", -result);
    return arrive(std::move(arrival));
  }
  std::erase_if(candidates_, [](const auto& each) { return each->dropped && each->settled(); });
  if (!waiting_since_) waiting_since_ = boot_time();
  // A VMM is accepted only if its descriptors can be, too.
  const bool has_room = reserve_.refill(listener_);
  reserve_.release();
  Result<UniqueFd> accepted = fail(ErrorCode::kNoDescriptors, "no descriptors are left");
  if (has_room) accepted = accept_connection(listener_, Deadline::after(Nanoseconds(0)));
  if (!accepted && accepted.error().code() == ErrorCode::kTimeout) {
    waiting_since_.reset();
    return await_connection();
  }
  if (!accepted && accepted.error().error_number() == EINVAL) {
    Arrival arrival;
    arrival.refusal = Error(ErrorCode::kStopped, "its socket was shut down");
    return arrive(std::move(arrival));
  }
  if (!accepted) {
    // Out of descriptors, mostly: the VMM stays in the queue, and polling tells of it all the time.
    if (accept_pause_ == limits::kAcceptPauseFirst) {
      calls_.say(LogLevel::kError,
                 fmt::format("its VMM has to wait: {}", accepted.error().message()));
    }
    return loop_.wait(accept_pause_, resting_);
  }
  if (const auto admitted = admit(*std::move(accepted)); !admitted) note_drop(admitted.error());
  if (candidates_left() < limits::kMaxVmmCandidates) return await_connection();
  loop_.wait(limits::kSilentVmm, resting_);
}

Result<void> VmmDoor::admit(UniqueFd connection) {
  PeerProcess peer = TRY(peer_process(connection, *waiting_since_));
  TRY(check_user(peer));
  TRY(greet(connection));
  Candidate& candidate = *candidates_.emplace_back(
      std::make_unique<Candidate>(*this, std::move(connection), std::move(peer)));
  loop_.poll(candidate.connection, POLLIN, candidate.receiving);
  loop_.wait(limits::kHandoffTimeout, candidate.patience);
  return {};
}

Result<void> VmmDoor::check_user(const PeerProcess& peer) const {
  if (image_.valid() && root_vmm_ == RootVmm::kRefused && is_own_or_root(peer.user)) {
    return fail(ErrorCode::kPermission,
                "a VMM of user {} could change the host image, which is shared with other VMs; "
                "`thaw prepare --allow-root-vmm` allows it",
                peer.user);
  }
  // Another process may have its number, and the VMM may be killed: so it is of that user alone.
  const UniqueFd& file = kept_[KeptRole::kSocketFile];
  if (peer.found_by == PeerFoundBy::kSocket || !file.valid()) return {};
  const uid_t owner = TRY(file_owner(file)).uid;
  if (peer.user == owner) return {};
  return fail(ErrorCode::kPermission,
              "on a kernel before Linux 6.5 a VMM runs as the user who owns its socket, {}, not {}",
              owner, peer.user);
}

void VmmDoor::on_rested() {
  if (!open_ || chosen_ != nullptr) return;
  accept_pause_ = std::min<Nanoseconds>(accept_pause_ * 2, limits::kAcceptPauseMost);
  if (candidates_left() < limits::kMaxVmmCandidates) return await_connection();
  // No others are heard meanwhile, so those that say nothing make room.
  const auto before = Clock::now() - limits::kSilentVmm;
  for (const auto& candidate : candidates_) {
    if (candidate->dropped || candidate->since > before) continue;
    std::array<std::byte, 1> byte{};
    const auto sent = peek(candidate->connection, byte);
    if (sent && sent->value_or(0) > 0) continue;
    note_drop(Error(ErrorCode::kLimitExceeded, "too many connections say nothing"));
    drop(*candidate);
  }
  if (candidates_left() < limits::kMaxVmmCandidates) return await_connection();
  loop_.wait(limits::kSilentVmm, resting_);
}

/// A VMM that is to map the host image gets it now.
Result<void> VmmDoor::greet(const UniqueFd& connection) {
  if (!image_.valid()) return {};
  const std::array descriptors{image_.get()};
  return send_with_descriptors(connection, as_bytes(kHostImageGreeting), descriptors,
                               Deadline::after(Nanoseconds(0)));
}

void VmmDoor::on_handoff(Candidate& candidate, int result) {
  if (candidate.dropped) return drop(candidate);
  if (!open_) return;
  if (result < 0) {
    return refuse(candidate, Error(ErrorCode::kIo, "receiving the handoff failed", -result));
  }
  // A descriptor for which there is no number would be lost, and with it the guest's memory.
  reserve_.release();
  auto handoff = candidate.receiver.receive(candidate.connection);
  if (!handoff) return refuse(candidate, handoff.error());
  const bool is_new = chosen_ == nullptr && (*handoff || candidate.receiver.has_userfaultfd());
  if (is_new) choose(candidate);
  if (is_new && !*handoff) tell_of(candidate);
  if (!*handoff) return loop_.poll(candidate.connection, POLLIN, candidate.receiving);
  Arrival arrival;
  take_handoff(candidate, **std::move(handoff), arrival);
  arrive(std::move(arrival));
}

void VmmDoor::take_handoff(Candidate& candidate, HandoffReceiver::Handoff handoff,
                           Arrival& arrival) {
  candidate.whole = true;
  UniqueFd& pidfd = candidate.vmm.pidfd;
  if (!pidfd.valid()) pidfd = std::move(handoff.pidfd);
  if (!pidfd.valid()) {
    arrival.refusal = Error(ErrorCode::kUnsupported,
                            "the VMM is in another PID namespace, has sent no pidfd, and this "
                            "kernel names no process there (Linux 6.5 and later do)");
  }
  arrival.userfaultfd = std::move(handoff.userfaultfd);
  arrival.handoff = std::move(handoff.text);
  arrival.left = handoff.left;
}

void VmmDoor::on_silence(Candidate& candidate, int result) {
  if (candidate.dropped) return drop(candidate);
  if (!open_ || result == -ECANCELED) return;
  refuse(candidate, Error(ErrorCode::kTimeout, "the handoff was never completed"));
}

void VmmDoor::on_patience_over(int result) {
  if (!open_ || result == -ECANCELED || chosen_ != nullptr) return;
  Arrival arrival;
  arrival.refusal = Error(ErrorCode::kTimeout, "no VMM connected");
  arrive(std::move(arrival));
}

void VmmDoor::refuse(Candidate& candidate, Error error) {
  Arrival arrival;
  take_userfaultfds(candidate, arrival);
  if (!arrival.userfaultfd.valid() && chosen_ == nullptr) {
    note_drop(error);
    return drop(candidate);
  }
  choose(candidate);
  arrival.refusal = std::move(error);
  arrive(std::move(arrival));
}

void VmmDoor::take_userfaultfds(Candidate& candidate, Arrival& arrival) {
  std::vector<UniqueFd> all = candidate.receiver.take_userfaultfds();
  bool held = !candidate.receiver.take_loss();
  if (!all.empty()) arrival.userfaultfd = std::move(all.front());
  std::vector<UniqueFd> others = std::exchange(stranded_, {});
  std::ranges::move(all | std::views::drop(1), std::back_inserter(others));
  if (!others.empty()) {
    auto holder = hold_descriptors(others);
    held = held && holder;
    if (holder) arrival.other_userfaultfds = *std::move(holder);
  }
  if (held) return;
  // Whatever its policy: its missing pages could read as zeros.
  const auto killed = kill_process(candidate.vmm.pidfd);
  calls_.say(LogLevel::kError, fmt::format("the VMM's userfaultfds cannot all be held: it {}",
                                           killed ? "was sent SIGKILL" : killed.error().message()));
}

void VmmDoor::drop(Candidate& candidate) {
  if (!std::exchange(candidate.dropped, true)) {
    shut_down(candidate.connection);
    reserve_.release();
    static_cast<void>(candidate.receiver.receive(candidate.connection));
    if (strand(candidate)) {
      calls_.say(LogLevel::kError,
                 fmt::format("process {} has handed memory over, which is not served: it waits",
                             candidate.vmm.pid));
    }
  }
  loop_.cancel(candidate.receiving);
  loop_.cancel(candidate.patience);
  // Where a VMM has come, nothing that may take long comes before its arrival.
  if (candidate.settled() && open_ && chosen_ == nullptr) candidate.connection.reset();
}

bool VmmDoor::strand(Candidate& candidate) {
  std::vector<UniqueFd> userfaultfds = candidate.receiver.take_userfaultfds();
  std::ranges::move(userfaultfds, std::back_inserter(stranded_));
  return !userfaultfds.empty();
}

void VmmDoor::hear_out(Candidate& candidate, Arrival& arrival) {
  // The first time it may go on sending, and so the second time nothing more can come.
  for (const bool ended : {false, true}) {
    if (ended) shut_down(candidate.connection);
    reserve_.release();
    auto handoff = candidate.receiver.receive(candidate.connection);
    const bool whole = handoff && *handoff;
    if (!whole && !candidate.receiver.has_userfaultfd()) continue;
    chosen_ = &candidate;
    if (whole) return take_handoff(candidate, **std::move(handoff), arrival);
    if (!handoff) arrival.refusal = std::move(handoff).error();
    return;
  }
}

void VmmDoor::admit_queue() {
  shut_down(listener_);  // who has not connected by now cannot any more
  while (true) {
    reserve_.release();
    auto accepted = accept_connection(listener_, Deadline::after(Nanoseconds(0)));
    if (!accepted) return;
    if (!waiting_since_) waiting_since_ = boot_time();
    if (const auto admitted = admit(*std::move(accepted)); !admitted) note_drop(admitted.error());
  }
}

void VmmDoor::drain(Candidate& candidate, Arrival& arrival) {
  static_cast<void>(refuse_descriptors(candidate.connection));
  std::array<std::byte, 16384> piece;
  // A VMM that goes on talking is heard no more: all descriptors came before that.
  const Deadline deadline = Deadline::after(limits::kAfterHandoff);
  while (!deadline.passed()) {
    reserve_.release();
    auto received = receive_with_descriptors(candidate.connection, piece);
    if (!received || !*received || (*received)->bytes == 0) return;
    arrival.left = arrival.left || piece[(*received)->bytes - 1] == kFarewell;
    candidate.receiver.add_surplus(**std::move(received));
  }
}

void VmmDoor::note_drop(const Error& error) {
  ++unlogged_drops_;
  if (Clock::now() < next_log_) return;
  calls_.say(LogLevel::kWarning, fmt::format("dropped a connection, {} since the last line: {}",
                                             std::exchange(unlogged_drops_, 0), error.message()));
  next_log_ = Clock::now() + limits::kDropLogInterval;
}

void VmmDoor::choose(Candidate& candidate) {
  if (chosen_ != nullptr) return;
  chosen_ = &candidate;
  for (const auto& other : candidates_) {
    if (other.get() != chosen_) drop(*other);
  }
  for (Operation* operation : {&accepting_, &resting_, &patience_}) loop_.cancel(*operation);
}

void VmmDoor::tell_of(const Candidate& candidate) {
  auto userfaultfd = candidate.receiver.copy_of_userfaultfd();
  auto pidfd = duplicate(candidate.vmm.pidfd);
  if (!userfaultfd || !pidfd) return;  // then this process alone has it
  KeptSession held;
  held[KeptRole::kUserfaultfd] = *std::move(userfaultfd);
  held[KeptRole::kPidfd] = *std::move(pidfd);
  calls_.on_vmm(std::move(held));
}

void VmmDoor::arrive(Arrival arrival) {
  Arrival closed = close(Queue::kHeard);
  if (closed.userfaultfd.valid() && !arrival.userfaultfd.valid()) {
    return calls_.on_arrival(std::move(closed));  // at the last moment
  }
  if (closed.other_userfaultfds.valid()) {
    arrival.other_userfaultfds = std::move(closed.other_userfaultfds);
  }
  arrival.left = arrival.left || closed.left;
  arrival.connection = std::move(closed.connection);
  arrival.vmm = std::move(closed.vmm);
  calls_.on_arrival(std::move(arrival));
}

Arrival VmmDoor::close(Queue queue) {
  if (!std::exchange(open_, false)) return {};
  for (Operation* operation : {&accepting_, &resting_, &patience_}) loop_.cancel(*operation);
  Arrival arrival;
  if (queue == Queue::kHeard) admit_queue();
  for (const auto& candidate : candidates_) {
    if (chosen_ == nullptr && !candidate->dropped) hear_out(*candidate, arrival);
    if (candidate.get() != chosen_) drop(*candidate);
  }
  if (chosen_ == nullptr && !stranded_.empty()) {
    arrival.userfaultfd = std::move(stranded_.back());
    stranded_.pop_back();
    arrival.refusal = Error(ErrorCode::kStopped, "its handoff came too late");
    if (auto others = hold_descriptors(stranded_)) arrival.other_userfaultfds = *std::move(others);
  }
  if (chosen_ == nullptr) return arrival;
  loop_.cancel(chosen_->receiving);
  loop_.cancel(chosen_->patience);
  drain(*chosen_, arrival);
  if (chosen_->whole) strand(*chosen_);
  if (!chosen_->whole && !arrival.refusal) {
    arrival.refusal = Error(ErrorCode::kStopped, "its handoff came too late");
  }
  Arrival rest;
  take_userfaultfds(*chosen_, rest);
  if (rest.userfaultfd.valid()) arrival.userfaultfd = std::move(rest.userfaultfd);
  if (rest.other_userfaultfds.valid())
    arrival.other_userfaultfds = std::move(rest.other_userfaultfds);
  arrival.connection = std::move(chosen_->connection);
  arrival.vmm = std::move(chosen_->vmm);
  return arrival;
}

std::size_t VmmDoor::candidates_left() const {
  return static_cast<std::size_t>(std::ranges::count_if(
      candidates_, [this](const auto& each) { return !each->dropped && each.get() != chosen_; }));
}

bool VmmDoor::busy() const {
  if (!open_) return false;
  const auto before = Clock::now() - limits::kSilentVmm;
  return chosen_ != nullptr || std::ranges::any_of(candidates_, [&](const auto& each) {
           return !each->dropped && each->since > before;
         });
}

bool VmmDoor::finished() const {
  return !open_ && !accepting_.active() && !resting_.active() && !patience_.active() &&
         std::ranges::all_of(candidates_, [](const auto& each) { return each->settled(); });
}

}  // namespace thaw
