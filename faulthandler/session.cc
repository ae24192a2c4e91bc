#include "faulthandler/session.h"

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "faulthandler/shared_memory.h"
#include "format/farewell.h"

namespace thaw {

namespace {

std::unique_ptr<VmMemory> make_memory(Loop& loop, DemandLink& link, const SessionOptions& options,
                                      VmMemory::Owner& owner) {
  if (options.shared == nullptr) {
    return std::make_unique<ServedMemory>(loop, link, options.serve, owner);
  }
  return std::make_unique<SharedMemory>(loop, *options.shared, owner);
}

}  // namespace

Session::Session(Loop& loop, DemandLink& link, SessionOptions options, Owner& owner)
    : loop_(loop),
      options_(std::move(options)),
      owner_(owner),
      memory_(make_memory(loop, link, options_, *this)) {}

void Session::start() {
  await_connection();
  loop_.wait(limits::kAcceptTimeout, patience_);
  memory_->connect();  // which may end the session
}

void Session::on_connection(int result) {
  if (state_ != SessionState::kPrepared) return;
  if (result < 0) return end("waiting for the VMM failed");
  auto accepted = accept_unix(options_.listener, Deadline::after(Nanoseconds(0)));
  if (!accepted && accepted.error().code() == ErrorCode::kTimeout) return await_connection();
  if (!accepted) {
    // Out of descriptors, mostly: the VMM stays in the queue, and polling tells of it all the time.
    if (accept_pause_ == limits::kAcceptPauseFirst) {
      log_error("session {}: its VMM has to wait: {}", options_.id, accepted.error().message());
    }
    return loop_.wait(accept_pause_, resting_);
  }
  auto peer = peer_process(*accepted);
  if (!peer) return refuse_handoff(peer.error());
  connection_ = *std::move(accepted);
  vmm_ = *std::move(peer);
  if (const auto greeted = greet(); !greeted) return refuse_handoff(greeted.error());
  receiver_ = std::make_unique<HandoffReceiver>();
  loop_.poll(connection_, POLLIN, receiving_);
  loop_.cancel(patience_);
}

void Session::on_rested() {
  if (state_ != SessionState::kPrepared) return;
  accept_pause_ = std::min<Nanoseconds>(accept_pause_ * 2, limits::kAcceptPauseMost);
  await_connection();
}

/// A VMM that is to map the host image gets it now.
Result<void> Session::greet() {
  const UniqueFd* const file = memory_->file();
  if (file == nullptr) return {};
  const std::array descriptors{file->get()};
  return send_with_descriptors(connection_, as_bytes(kHostImageGreeting), descriptors,
                               Deadline::after(Nanoseconds(0)));
}

void Session::on_handoff(int result) {
  if (state_ != SessionState::kPrepared) return;
  if (result < 0) return end("receiving the handoff failed");
  auto handoff = receiver_->receive(connection_);
  if (!handoff) return refuse_handoff(handoff.error());
  if (!*handoff) {
    loop_.poll(connection_, POLLIN, receiving_);
    return;
  }
  if (auto attached = attach(**std::move(handoff)); !attached) refuse_handoff(attached.error());
}

void Session::on_patience_over(int result) {
  if (state_ != SessionState::kPrepared) return;
  if (result == -ECANCELED) {
    if (receiver_ != nullptr) loop_.wait(limits::kHandoffTimeout, patience_);
    return;
  }
  if (receiver_ == nullptr) return end("timeout: no VMM connected");
  refuse_handoff(Error(ErrorCode::kTimeout, "the handoff was never completed"));
}

Result<void> Session::attach(HandoffReceiver::Handoff handoff) {
  auto regions =
      RegionTable::check(std::move(handoff.regions), options_.serve.image->manifest.spec);
  if (!regions) {
    refused_userfaultfd_ = std::move(handoff.userfaultfd);
    return std::unexpected(regions.error());
  }
  receiver_.reset();
  state_ = SessionState::kServing;
  loop_.cancel(patience_);
  remove_file(options_.socket_path);
  log_info("session {}: serving {} to process {}", options_.id,
           options_.serve.image->manifest.spec.name, vmm_.pid);
  loop_.poll(vmm_.pidfd, POLLIN, exiting_);
  if (!handoff.left) loop_.poll(connection_, POLLIN, leaving_);
  for (const HandoffRegion& region : regions->regions()) {
    layout_.push_back({region.size, region.offset, region.page_size});
  }
  if (options_.serve.window_use == WindowUse::kRecord) recording_ = RecordingState::kRunning;
  memory_->start(std::move(handoff.userfaultfd), *std::move(regions));
  if (options_.unservable_after.count() > 0) watch_waiting();
  owner_.on_attached();
  if (handoff.left) end("the VMM gave its memory up");
  return {};
}

void Session::refuse_handoff(const Error& error) {
  log_error("session {}: refused the handoff of process {}: {}", options_.id, vmm_.pid,
            error.message());
  if (!refused_userfaultfd_.valid() && (receiver_ == nullptr || !receiver_->has_userfaultfd())) {
    return end(error.message());
  }
  // The peer has guest memory. It hangs at its first missing page unless it is killed, but it must
  // not read zeros there, so the descriptor is kept until it has exited.
  state_ = SessionState::kRefused;
  outcome_ = error.message();
  remove_file(options_.socket_path);
  loop_.cancel(patience_);
  memory_->stop();  // what was prefetched for it is of no use
  loop_.poll(vmm_.pidfd, POLLIN, exiting_);
  loop_.poll(connection_, POLLIN, leaving_);
  if (options_.on_unservable != UnservablePolicy::kWait) kill_vmm();
}

void Session::kill_vmm() {
  if (auto killed = kill_process(vmm_.pidfd); !killed) {
    log_error("session {}: {}", options_.id, killed.error().message());
  }
}

void Session::watch_waiting() {
  if (state_ != SessionState::kServing) return;
  const auto now = Clock::now();
  const auto since = memory_->waiting_since();
  const bool late = since && now - *since >= options_.unservable_after;
  if (late && options_.on_unservable == UnservablePolicy::kWait) {
    if (!waits_long_) log_error("session {}: no page server brings what it needs", options_.id);
  } else if (late) {
    const std::string reason = fmt::format("no page server has brought it within {} ms",
                                           options_.unservable_after.count());
    memory_->stop_waiting(now - options_.unservable_after, reason);
  }
  waits_long_ = late;
  if (state_ == SessionState::kServing && outcome_.empty()) {
    loop_.wait(std::clamp<Nanoseconds>(options_.unservable_after / 4, limits::kWaitingLookLeast,
                                       limits::kWaitingLookMost),
               waiting_);
  }
}

Unservable Session::on_unservable(PageIndex page, const std::string& reason) {
  const std::string what = fmt::format("page {} of {} cannot be had: {}", page.value,
                                       options_.serve.image->manifest.spec.name, reason);
  if (options_.on_unservable == UnservablePolicy::kKill) {
    give_up(what);
    return Unservable::kEnds;
  }
  const bool poisons = options_.on_unservable == UnservablePolicy::kPoison;
  log_error("session {}: {}; {}", options_.id, what,
            poisons ? "the guest must not touch it" : "the guest waits");
  return poisons ? Unservable::kPoisoned : Unservable::kWaits;
}

void Session::give_up(const std::string& reason) {
  if (!outcome_.empty()) return;  // said and done; a hostile VM may repeat its reason
  log_error("session {}: {}", options_.id, reason);
  outcome_ = reason;
  if (options_.on_unservable == UnservablePolicy::kWait) {
    log_error("session {}: process {} is left waiting for pages nobody will bring", options_.id,
              vmm_.pid);
    return;
  }
  kill_vmm();
}

void Session::stop_vm(const std::string& reason) {
  if (state_ == SessionState::kPrepared) {
    if (receiver_ == nullptr) return end(reason);
    return refuse_handoff(Error(ErrorCode::kCorrupt, reason));
  }
  log_error("session {}: {}", options_.id, reason);
  if (outcome_.empty()) outcome_ = reason;
  kill_vmm();
}

void Session::on_window_end(std::vector<Touch> touches) {
  owner_.on_window_end(*this, std::move(touches));
}

void Session::on_detached() {
  log_info("session {}: all memory of process {} is there; it needs nobody any more", options_.id,
           vmm_.pid);
  state_ = SessionState::kDetached;
}

void Session::on_vmm_exit(int result) {
  if (result < 0 || state_ == SessionState::kEnded) return;
  end(outcome_.empty() ? "the VMM exited" : outcome_);
}

void Session::on_farewell(int result) {
  if (result < 0 || state_ == SessionState::kEnded) return;
  std::byte byte{0};
  const auto received = receive_with_descriptors(connection_, {&byte, 1});
  if (received && !*received) return loop_.poll(connection_, POLLIN, leaving_);
  // A VMM that says something else, or has closed its socket, is served until it exits.
  if (!received || (*received)->bytes == 0 || byte != kFarewell) return;
  end(outcome_.empty() ? "the VMM gave its memory up" : outcome_);
}

Result<void> Session::stop(control::StopMode mode) {
  if (state_ == SessionState::kPrepared) {
    if (receiver_ == nullptr || !receiver_->has_userfaultfd()) {
      end("stopped");
    } else {
      refuse_handoff(Error(ErrorCode::kStopped, "stopped in the middle of the handoff"));
    }
    return {};
  }
  if (state_ == SessionState::kEnded) return {};
  if (state_ == SessionState::kDetached && mode == control::StopMode::kRefuseIfAlive) {
    end("stopped; its VM goes on by itself");
    return {};
  }
  if (mode == control::StopMode::kRefuseIfAlive) {
    return fail(ErrorCode::kBusy, "process {} still runs on session {}", vmm_.pid, options_.id);
  }
  outcome_ = "stopped, and the VMM killed";
  return kill_process(vmm_.pidfd);
}

void Session::end(std::string outcome) {
  log_info("session {}: ended: {}", options_.id, outcome);
  outcome_ = std::move(outcome);
  if (state_ == SessionState::kPrepared) remove_file(options_.socket_path);
  state_ = SessionState::kEnded;
  memory_->stop();
  for (Operation* operation :
       {&accepting_, &resting_, &receiving_, &patience_, &waiting_, &exiting_, &leaving_}) {
    loop_.cancel(*operation);
  }
  owner_.on_ended();
}

bool Session::finished() const {
  return state_ == SessionState::kEnded && memory_->finished() && !accepting_.active() &&
         !resting_.active() && !receiving_.active() && !patience_.active() && !waiting_.active() &&
         !exiting_.active() && !leaving_.active();
}

SessionReport Session::report() const {
  SessionReport report;
  report.session = options_.id;
  report.snapshot = options_.serve.image->manifest.spec.name;
  report.socket = options_.socket_path;
  report.state = state_;
  report.outcome = outcome_;
  report.vmm_pid = vmm_.pid;
  report.recording = recording_;
  report.memory = options_.serve.image->manifest.spec.memory;
  memory_->add_to(report);
  return report;
}

}  // namespace thaw
