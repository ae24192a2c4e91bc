#include "faulthandler/vmm_door.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/place.h"

namespace thaw {

VmmDoor::Candidate::Candidate(VmmDoor& door, UniqueFd socket, PeerProcess peer)
    : connection(std::move(socket)),
      vmm(std::move(peer)),
      receiving([this, &door](int result) { door.on_handoff(*this, result); }),
      patience([this, &door](int result) { door.on_silence(*this, result); }) {}

VmmDoor::VmmDoor(Loop& loop, std::uint64_t session, KeptSession kept, DescriptorReserve& reserve,
                 std::function<void(Arrival)> on_arrival, RootVmm root_vmm)
    : loop_(loop),
      session_(session),
      kept_(std::move(kept)),
      listener_(kept_[KeptRole::kListener]),
      image_(kept_[KeptRole::kImageView]),
      reserve_(reserve),
      on_arrival_(std::move(on_arrival)),
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
  const bool has_room = reserve_.refill();
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
      log_error("session {}: its VMM has to wait: {}", session_, accepted.error().message());
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
  const uid_t owner = TRY(file_user(file));
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
  if (chosen_ == nullptr && (*handoff || candidate.receiver.has_userfaultfd())) choose(candidate);
  if (!*handoff) return loop_.poll(candidate.connection, POLLIN, candidate.receiving);
  Arrival arrival;
  UniqueFd& pidfd = candidate.vmm.pidfd;
  if (!pidfd.valid()) pidfd = std::move((*handoff)->pidfd);
  if (!pidfd.valid()) {
    arrival.refusal = Error(ErrorCode::kUnsupported,
                            "the VMM is in another PID namespace, has sent no pidfd, and this "
                            "kernel names no process there (Linux 6.5 and later do)");
  }
  arrival.userfaultfd = std::move((*handoff)->userfaultfd);
  arrival.handoff = std::move((*handoff)->text);
  arrival.left = (*handoff)->left;
  arrive(std::move(arrival));
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
  if (all.size() > 1) {
    auto others = hold_descriptors(std::span(all).subspan(1));
    held = held && others;
    if (others) arrival.other_userfaultfds = *std::move(others);
  }
  if (!all.empty()) arrival.userfaultfd = std::move(all.front());
  if (held) return;
  // Whatever its policy: its missing pages could read as zeros.
  const auto killed = kill_process(candidate.vmm.pidfd);
  log_error("session {}: the VMM's userfaultfds cannot all be held: it {}", session_,
            killed ? "was sent SIGKILL" : killed.error().message());
}

void VmmDoor::drop(Candidate& candidate) {
  candidate.dropped = true;
  loop_.cancel(candidate.receiving);
  loop_.cancel(candidate.patience);
  if (candidate.settled()) candidate.connection.reset();
}

void VmmDoor::note_drop(const Error& error) {
  ++unlogged_drops_;
  if (Clock::now() < next_log_) return;
  log_warning("session {}: dropped a connection that was no VMM's, {} since the last line: {}",
              session_, std::exchange(unlogged_drops_, 0), error.message());
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

void VmmDoor::arrive(Arrival arrival) {
  Arrival closed = close();
  arrival.connection = std::move(closed.connection);
  arrival.vmm = std::move(closed.vmm);
  on_arrival_(std::move(arrival));
}

Arrival VmmDoor::close() {
  open_ = false;
  for (Operation* operation : {&accepting_, &resting_, &patience_}) loop_.cancel(*operation);
  Arrival arrival;
  for (const auto& candidate : candidates_) {
    if (candidate.get() != chosen_) {
      drop(*candidate);
      continue;
    }
    loop_.cancel(candidate->receiving);
    loop_.cancel(candidate->patience);
    take_userfaultfds(*candidate, arrival);
    arrival.connection = std::move(candidate->connection);
    arrival.vmm = std::move(candidate->vmm);
  }
  return arrival;
}

std::size_t VmmDoor::candidates_left() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(candidates_, [](const auto& each) { return !each->dropped; }));
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
