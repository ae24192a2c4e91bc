#include "faulthandler/session.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "base/place.h"
#include "base/process_exit.h"
#include "faulthandler/address_space.h"
#include "faulthandler/shared_memory.h"
#include "format/farewell.h"

namespace thaw {

namespace {

std::unique_ptr<VmMemory> make_memory(Loop& loop, DemandLink& link, const SessionOptions& options,
                                      MemoryRecord& record, VmMemory::Owner& owner) {
  if (options.shared == nullptr) {
    return std::make_unique<ServedMemory>(loop, link, options.serve, record, owner);
  }
  return std::make_unique<SharedMemory>(loop, *options.shared, options.serve.memory_patience,
                                        record, owner);
}

/// "code 0", "signal 9 (SIGKILL)", "unknown".
std::string exit_text(const std::optional<ExitStatus>& status) {
  if (!status) return "unknown";
  if (status->signal == 0) return fmt::format("code {}", status->code);
  return status->text().substr(std::string_view("was killed by ").size());
}

}  // namespace

Session::Session(Loop& loop, DemandLink& link, SessionOptions options, MemoryRecord record,
                 Owner& owner)
    : loop_(loop),
      options_(std::move(options)),
      record_(std::move(record)),
      owner_(owner),
      memory_(make_memory(loop, link, options_, record_, *this)) {}

void Session::start() {
  if (record_.detached()) {
    state_ = SessionState::kDetached;
  } else {
    memory_->connect();  // which may end the session
  }
}

void Session::on_arrival(Arrival arrival) {
  if (state_ == SessionState::kEnded) return;
  has_arrived_ = true;
  socket_ = KeptSession();  // the supervisor has removed its name
  connection_ = std::move(arrival.connection);
  vmm_ = std::move(arrival.vmm);
  if (state_ == SessionState::kDetached) {
    // A change of memory that began before it was let go waits until it was read.
    memory_->adopt(std::move(arrival.userfaultfd));
    return watch_vmm();
  }
  other_userfaultfds_ = std::move(arrival.other_userfaultfds);
  if (arrival.refusal || !record_.regions().empty()) return settle_arrival(std::move(arrival));
  // From here on the VM depends on this session, though it is not served yet.
  state_ = SessionState::kServing;
  watch_vmm();
  unchecked_ = std::move(arrival);
  memory_->prepare_check([this] {
    if (unchecked_) settle_arrival(*std::exchange(unchecked_, {}));
  });
}

void Session::settle_arrival(Arrival arrival) {
  if (arrival.refusal) {
    refused_userfaultfd_ = std::move(arrival.userfaultfd);
    return refuse_handoff(*arrival.refusal);
  }
  if (const auto attached = attach(arrival.handoff, arrival.userfaultfd); !attached) {
    refused_userfaultfd_ = std::move(arrival.userfaultfd);
    return refuse_handoff(attached.error());
  }
  if (!arrival.left) return;
  gave_up_memory_ = true;
  end("the VMM gave its memory up");
}

Result<void> Session::attach(std::string_view handoff, UniqueFd& userfaultfd) {
  const SnapshotSpec& spec = options_.serve.image->manifest.spec;
  auto regions = TRY(RegionTable::check(TRY(decode_handoff(handoff)), spec));
  const RemoveEvents remove_events = TRY(remove_events_of(userfaultfd));
  const bool adopted = !record_.regions().empty();
  if (!adopted) TRY(memory_->check(userfaultfd, remove_events, regions));
  remove_events_ = remove_events;
  for (const HandoffRegion& region : regions.regions()) {
    layout_.push_back({region.size, region.offset, region.page_size});
  }
  state_ = SessionState::kServing;
  log_info("session {}: {} {} to {}", options_.id, adopted ? "goes on serving" : "serving",
           spec.name, vmm_text());
  if (vmm_.pid == 0) {
    log_warning("session {}: the VMM's PID namespace is not seen from here: it cannot be killed",
                options_.id);
  }
  watch_vmm();
  if (!adopted) {
    if (options_.serve.window_use == WindowUse::kRecord) recording_ = RecordingState::kRunning;
    memory_->start(std::move(userfaultfd), std::move(regions));
  } else {
    memory_->adopt(std::move(userfaultfd));
  }
  if (options_.unservable_after.count() > 0) watch_waiting();
  owner_.on_attached();
  return {};
}

void Session::note_outage(Nanoseconds time, OutageCause cause) {
  if (state_ == SessionState::kServing) record_.note_outage(time, cause);
}

bool Session::begin_errand(ErrandTask& task, Errand errand) {
  task.start(owner_.errands(), options_.id, std::move(errand),
             {.pid = vmm_.pid,
              .pidfd = vmm_.pidfd.valid() ? &vmm_.pidfd : nullptr,
              .image = options_.shared != nullptr ? &options_.shared->view() : nullptr});
  return true;
}

void Session::write_trace(UniqueFd content) {
  if (tracing_.active()) return;
  begin_errand(tracing_, {.kind = Errand::Kind::kTrace, .file = std::move(content)});
}

void Session::on_traced(const ErrandResult& written) {
  if (written.done()) return;
  log_error("session {}: the trace {} is not written: {}", options_.id, options_.trace_out,
            written.failure);
}

void Session::watch_vmm() {
  if (leaving_.active()) return;
  // Without a pidfd the handoff was refused, and its memory is held as long as this process lives.
  if (vmm_.pidfd.valid()) loop_.poll(vmm_.pidfd, POLLIN, exiting_);
  loop_.poll(connection_, POLLIN, leaving_);
}

std::string Session::vmm_text() const {
  return vmm_.pid != 0 ? fmt::format("process {}", vmm_.pid) : "a process in another PID namespace";
}

void Session::refuse_handoff(const Error& error) {
  if (!refused_userfaultfd_.valid()) return end(error.message());
  log_error("session {}: refused the handoff of {}: {}", options_.id, vmm_text(), error.message());
  // The peer has guest memory. It hangs at its first missing page unless it is killed, but it must
  // not read zeros there, so the descriptor is kept until it has exited.
  state_ = SessionState::kRefused;
  outcome_ = error.message();
  memory_->stop();  // what was prefetched for it is of no use
  watch_vmm();
  if (options_.on_unservable != UnservablePolicy::kWait) kill_vmm();
}

void Session::remove_socket() {
  // From now on the socket is stale, whether this process may remove its name or not.
  if (socket_.has(KeptRole::kSocketFile)) shut_down(socket_[KeptRole::kListener]);
  static_cast<void>(socket_.remove_socket(last_component(options_.socket_path)));
  socket_ = KeptSession();
}

void Session::kill_vmm() {
  const auto killed = kill_process(vmm_.pidfd);
  if (killed) return;
  log_error("session {}: {}", options_.id, killed.error().message());
  outcome_ += fmt::format("; the VMM was not killed: {}", killed.error().message());
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
    log_error("session {}: {} is left waiting for pages nobody will bring", options_.id,
              vmm_text());
    return;
  }
  kill_vmm();
}

void Session::stop_vm(const std::string& reason) {
  if (state_ == SessionState::kPrepared) return end(reason);
  log_error("session {}: {}", options_.id, reason);
  if (outcome_.empty()) outcome_ = reason;
  kill_vmm();
}

void Session::on_memory_short(const std::string& what) {
  log_warning("session {}: {}", options_.id, what);
}

void Session::on_memory_slow(const std::string& what) {
  log_warning("session {}: {}", options_.id, what);
}

void Session::on_window_end(std::vector<Touch> touches) {
  owner_.on_window_end(*this, std::move(touches));
}

void Session::on_detached() {
  log_info("session {}: all memory of {} is there; it needs nobody any more", options_.id,
           vmm_text());
  state_ = SessionState::kDetached;
}

void Session::on_vmm_exit(int result) {
  if (result < 0 || state_ == SessionState::kEnded) return;
  // The kernel says it of itself once its parent has waited for it (Linux 6.15).
  if (const auto status = exit_status(vmm_.pidfd, 0)) return end_with(status);
  if (!exit_look_.active()) begin_errand(exit_look_, {.kind = Errand::Kind::kExit});
}

void Session::end_with(const std::optional<ExitStatus>& status) {
  if (state_ == SessionState::kEnded) return;
  vmm_exit_ = exit_text(status);
  if (killed_on_request_) outcome_ = "stopped, and the VMM killed";
  if (!outcome_.empty()) return end(outcome_);
  const bool plainly = !status || *status == ExitStatus{};
  end(plainly ? "the VMM exited" : "the VMM " + status->text());
}

void Session::on_farewell(int result) {
  if (result < 0 || state_ == SessionState::kEnded) return;
  // It is not taken: the VMM waits for the end of the connection, which whoever comes after this
  // process owes it too.
  std::byte byte{0};
  const auto there = peek(connection_, {&byte, 1});
  if (there && !*there) return loop_.poll(connection_, POLLIN, leaving_);
  // A VMM that says something else, or has closed its socket, is served until it exits.
  if (!there || **there == 0 || byte != kFarewell) return;
  gave_up_memory_ = true;
  end(outcome_.empty() ? "the VMM gave its memory up" : outcome_);
}

Result<void> Session::stop(control::StopMode mode) {
  if (state_ == SessionState::kPrepared) {
    end("stopped");
    return {};
  }
  if (state_ == SessionState::kEnded && needed_looks_ > 1) {
    return fail(ErrorCode::kBusy, "another process has the memory of session {}, which stays",
                options_.id);
  }
  if (state_ == SessionState::kEnded) return {};
  if (state_ == SessionState::kDetached && mode == control::StopMode::kRefuseIfAlive) {
    end("stopped; its VM goes on by itself");
    return {};
  }
  if (mode == control::StopMode::kRefuseIfAlive) {
    return fail(ErrorCode::kBusy,
                "{0} still runs on session {1}: wait until it is done; `thaw stop {1} --kill` ends "
                "it as well",
                vmm_text(), options_.id);
  }
  TRY(kill_process(vmm_.pidfd));
  killed_on_request_ = true;
  outcome_ = "stopping: the VMM was sent SIGKILL";
  return {};
}

void Session::end(std::string outcome) {
  log_info("session {}: ended: {}", options_.id, outcome);
  outcome_ = std::move(outcome);
  if (state_ == SessionState::kPrepared) remove_socket();
  state_ = SessionState::kEnded;
  if (unchecked_) refused_userfaultfd_ = std::move(unchecked_->userfaultfd);
  unchecked_.reset();
  memory_->stop();
  for (Operation* operation : {&waiting_, &exiting_, &leaving_}) loop_.cancel(*operation);
  if (has_arrived_) looking_.start();
  owner_.on_ended();
}

void Session::look_who_needs_memory() {
  // It may be all there, or wait to be let go.
  is_needed_ = !record_.detached() && !gave_up_memory_ &&
               (memory_->has_process() || has_address_space(refused_userfaultfd_) ||
                any_has_address_space(other_userfaultfds_));
}

void Session::linger() {
  if (!is_needed_) return;
  // The first look may find one that has the VMM's memory for a moment, to look at it.
  if (++needed_looks_ == 2) {
    log_error("session {}: another process has the memory of {}: it waits at its next missing page",
              options_.id, vmm_text());
    outcome_ += "; another process has its memory, and waits";
  }
  loop_.wait(limits::kLingerInterval, lingering_);
}

bool Session::finished() const {
  return state_ == SessionState::kEnded && memory_->finished() && !waiting_.active() &&
         !exiting_.active() && !leaving_.active() && !lingering_.active() && !looking_.active() &&
         !tracing_.active();
}

SessionReport Session::report() const {
  SessionReport report;
  report.session = options_.id;
  report.snapshot = options_.serve.image->manifest.spec.name;
  report.socket = options_.socket_path;
  report.state = state_;
  report.outcome = outcome_;
  report.vmm_pid = vmm_.pid;
  report.vmm_exit = vmm_exit_;
  report.vmm_unseen = connection_.valid() && vmm_.pid == 0;
  report.remove_events = remove_events_ == RemoveEvents::kReported;
  report.recording = recording_;
  report.memory = options_.serve.image->manifest.spec.memory;
  report.verified = options_.serve.image->hashes.has_value();
  report.handler_deaths = record_.outages().count;
  report.unserved_us = static_cast<std::uint64_t>(record_.outages().time.count()) / 1000;
  memory_->add_to(report);
  // What an image still streams in is for others.
  if (state_ == SessionState::kEnded && report.prefetch.state == PrefetchState::kStreaming) {
    report.prefetch.state = PrefetchState::kStopped;
  }
  return report;
}

}  // namespace thaw
