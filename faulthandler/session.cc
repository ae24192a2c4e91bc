#include "faulthandler/session.h"

#include <algorithm>
#include <cerrno>

#include <poll.h>

#include "base/file.h"
#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

Session::Session(Loop& loop, DemandLink& link, SessionOptions options)
    : loop_(loop),
      link_(link),
      options_(std::move(options)),
      core_(options_.image->map, options_.image->manifest.spec.memory_pages()) {}

Session::~Session() { link_.forget(*this); }

void Session::start() {
  link_.add(*this);
  loop_.poll(options_.listener, POLLIN, accepting_);
  loop_.wait(limits::kAcceptTimeout, patience_);
}

void Session::on_connection(int result) {
  if (state_ != SessionState::kPrepared) return;
  if (result < 0) return end("waiting for the VMM failed");
  auto accepted = accept_unix(options_.listener, Deadline::after(Nanoseconds(0)));
  if (!accepted) {
    loop_.poll(options_.listener, POLLIN, accepting_);
    return;
  }
  auto peer = peer_process(*accepted);
  if (!peer) return refuse_handoff(peer.error());
  connection_ = *std::move(accepted);
  vmm_ = *std::move(peer);
  receiver_ = std::make_unique<HandoffReceiver>();
  loop_.poll(connection_, POLLIN, receiving_);
  loop_.cancel(patience_);
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
  userfaultfd_ = std::move(handoff.userfaultfd);
  regions_ = TRY(RegionTable::check(std::move(handoff.regions), options_.image->manifest.spec));
  receiver_.reset();
  state_ = SessionState::kServing;
  loop_.cancel(patience_);
  remove_file(options_.socket_path);
  log_info("session {}: serving {} to process {}", options_.id, options_.image->manifest.spec.name,
           vmm_.pid);
  loop_.poll(vmm_.pidfd, POLLIN, exiting_);
  loop_.poll(userfaultfd_, POLLIN, reading_);
  return {};
}

void Session::refuse_handoff(const Error& error) {
  log_error("session {}: refused the handoff of process {}: {}", options_.id, vmm_.pid,
            error.message());
  if (!userfaultfd_.valid() && (receiver_ == nullptr || !receiver_->has_userfaultfd())) {
    return end(error.message());
  }
  // The peer has guest memory. It hangs at its first missing page unless it is killed, but it must
  // not read zeros there, so the descriptor is kept until it has exited.
  state_ = SessionState::kRefused;
  outcome_ = error.message();
  remove_file(options_.socket_path);
  loop_.cancel(patience_);
  loop_.poll(vmm_.pidfd, POLLIN, exiting_);
  if (options_.on_unservable == UnservablePolicy::kKill) kill_vmm();
}

void Session::kill_vmm() {
  if (auto killed = kill_process(vmm_.pidfd); !killed) {
    log_error("session {}: {}", options_.id, killed.error().message());
  }
}

void Session::on_events(int result) {
  if (state_ != SessionState::kServing) return;
  if (result < 0) return give_up("waiting for faults failed");
  drain_events();
  retry_delayed();
  ask_for_wanted();
  if (state_ == SessionState::kServing) loop_.poll(userfaultfd_, POLLIN, reading_);
}

void Session::drain_events() {
  events_.clear();
  for (std::size_t i = 0; i < limits::kMaxEventReads; ++i) {
    const auto read = read_events(userfaultfd_, events_);
    if (!read) return give_up(read.error().message());
    if (*read == 0) break;
  }
  if (const auto applied = apply_removals(); !applied) return give_up(applied.error().message());
  answer_faults();
}

Result<void> Session::apply_removals() {
  const auto remove = [this](PageIndex first, PageCount count) { core_.on_remove(first, count); };
  for (const MemoryEvent& event : events_) {
    if (const auto* removed = std::get_if<RemoveEvent>(&event)) {
      regions_.for_each_span(removed->start, removed->length, remove);
    } else if (const auto* unmapped = std::get_if<UnmapEvent>(&event)) {
      regions_.for_each_span(unmapped->start, unmapped->length, remove);
    } else if (std::holds_alternative<RemapEvent>(event)) {
      return fail(ErrorCode::kUnsupported, "the VMM moved its guest memory (mremap)");
    } else if (std::holds_alternative<ForkEvent>(event)) {
      return fail(ErrorCode::kUnsupported, "the VMM forked with its userfaultfd");
    }
  }
  return {};
}

void Session::answer_faults() {
  const auto now = Clock::now();
  for (const MemoryEvent& event : events_) {
    const auto* const fault = std::get_if<FaultEvent>(&event);
    if (fault == nullptr) continue;
    const auto page = regions_.page_at(fault->address);
    if (!page)
      return give_up(fmt::format("a fault at {:#x}, outside all regions", fault->address.value));
    const WantedPage wanted{.page = *page, .chunk = core_.chunk_of(*page), .since = now};
    switch (core_.on_fault(*page)) {
      case FaultCore::Need::kFetch:
        wanted_.push_back(wanted);
        break;
      case FaultCore::Need::kZero:
        fill(wanted, nullptr);
        break;
      case FaultCore::Need::kWake:
        wake_pages(userfaultfd_, regions_.address_of(*page), {kPageBytes});
        break;
      case FaultCore::Need::kWait:
        break;
    }
    if (state_ != SessionState::kServing) return;
  }
}

void Session::ask_for_wanted() {
  while (!wanted_.empty() && state_ == SessionState::kServing) {
    std::array<WantedPage, limits::kMaxBatchPages> batch;
    const std::size_t count = std::min(wanted_.size(), batch.size());
    std::copy_n(wanted_.begin(), count, batch.begin());
    const std::size_t taken = link_.request(*this, std::span(batch).first(count));
    wanted_.erase(wanted_.begin(), wanted_.begin() + static_cast<std::ptrdiff_t>(taken));
    asked_ += taken;
    if (taken < count) return;
  }
}

void Session::on_chunk(const WantedPage& wanted, ByteSpan chunk) {
  --asked_;
  if (state_ != SessionState::kServing) return;
  bytes_received_ += chunk.size();
  if (const auto decoded = codec_.decode(chunk, wanted.chunk, plain_); !decoded) {
    ++damaged_chunks_;
    WantedPage again = wanted;
    if (++again.attempts < limits::kMaxPageAttempts) {
      wanted_.push_front(again);
      return ask_for_wanted();
    }
    return unservable(again, decoded.error().message());
  }
  fill(wanted, &plain_);
}

void Session::on_refused(const WantedPage& wanted, const Error& error) {
  --asked_;
  if (state_ != SessionState::kServing) return;
  if (wanted.attempts < limits::kMaxPageAttempts) {
    wanted_.push_front(wanted);
    return;
  }
  unservable(wanted, error.message());
}

void Session::fill(const WantedPage& wanted, const PlainPage* content) {
  const HostAddress address = regions_.address_of(wanted.page);
  if (!core_.takes_content(wanted.page)) content = nullptr;
  const FillResult result = content == nullptr ? zero_pages(userfaultfd_, address, {kPageBytes})
                                               : copy_pages(userfaultfd_, address, *content);
  switch (result.outcome) {
    case FillOutcome::kExists:
      ++redundant_fills_;
      wake_pages(userfaultfd_, address, {kPageBytes});
      [[fallthrough]];
    case FillOutcome::kFilled:
      core_.on_filled(wanted.page);
      latency_.record(Clock::now() - wanted.since);
      return;
    case FillOutcome::kRemoving:
      return delay(wanted, content);
    case FillOutcome::kRangeGone:
      ++gone_fills_;
      return;
    case FillOutcome::kProcessGone:
      return;  // the pidfd tells
    case FillOutcome::kFailed:
      return give_up(fmt::format("filling page {} failed with errno {}", wanted.page.value,
                                 result.error_number));
  }
}

void Session::delay(const WantedPage& wanted, const PlainPage* content) {
  ++delayed_fills_;
  DelayedFill later{wanted, nullptr};
  if (content != nullptr) {
    if (delayed_.size() >= limits::kMaxDelayedFills) {
      // Too much to keep: its chunk is asked for again.
      wanted_.push_back(wanted);
    } else {
      later.content = std::make_unique<PlainPage>(*content);
    }
  }
  if (content == nullptr || later.content != nullptr) delayed_.push_back(std::move(later));
  if (!retrying_.active()) loop_.wait(delay_, retrying_);
}

void Session::retry_delayed() {
  if (state_ != SessionState::kServing) return;
  std::vector<DelayedFill> due = std::move(delayed_);
  delayed_.clear();
  for (const DelayedFill& later : due) {
    if (state_ == SessionState::kServing) fill(later.wanted, later.content.get());
  }
  if (delayed_.empty()) delay_ = limits::kDelayedFirst;
}

void Session::on_retry_timer(int) {
  if (state_ != SessionState::kServing) return;
  delay_ = std::min<Nanoseconds>(delay_ * 2, limits::kDelayedMost);
  // The REMOVE that is in the way may still be unread.
  drain_events();
  retry_delayed();
  ask_for_wanted();
  if (!delayed_.empty() && !retrying_.active()) loop_.wait(delay_, retrying_);
}

void Session::unservable(const WantedPage& wanted, const std::string& reason) {
  const std::string what = fmt::format("page {} of {} cannot be had: {}", wanted.page.value,
                                       options_.image->manifest.spec.name, reason);
  if (options_.on_unservable == UnservablePolicy::kKill) return give_up(what);
  log_error("session {}: {}; the guest waits", options_.id, what);
  WantedPage again = wanted;
  again.attempts = 0;
  stuck_.push_back(again);
  if (!unsticking_.active()) loop_.wait(limits::kUnservableRetry, unsticking_);
}

void Session::on_stuck_timer(int) {
  if (state_ != SessionState::kServing) return;
  wanted_.insert(wanted_.end(), stuck_.begin(), stuck_.end());
  stuck_.clear();
  ask_for_wanted();
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

void Session::on_vmm_exit(int result) {
  if (result < 0 || state_ == SessionState::kEnded) return;
  end(outcome_.empty() ? "the VMM exited" : outcome_);
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
  link_.forget(*this);
  wanted_.clear();
  delayed_.clear();
  stuck_.clear();
  cancel_all();
}

void Session::cancel_all() {
  for (Operation* operation :
       {&accepting_, &receiving_, &patience_, &reading_, &exiting_, &retrying_, &unsticking_}) {
    loop_.cancel(*operation);
  }
}

bool Session::finished() const {
  return state_ == SessionState::kEnded && !accepting_.active() && !receiving_.active() &&
         !patience_.active() && !reading_.active() && !exiting_.active() && !retrying_.active() &&
         !unsticking_.active();
}

SessionReport Session::report() const {
  const auto microseconds = [](Nanoseconds t) { return static_cast<double>(t.count()) / 1000; };
  SessionReport report;
  report.session = options_.id;
  report.snapshot = options_.image->manifest.spec.name;
  report.socket = options_.socket_path;
  report.state = state_;
  report.outcome = outcome_;
  report.vmm_pid = vmm_.pid;
  report.memory = options_.image->manifest.spec.memory;
  report.present_pages = core_.present_pages();
  report.faults = core_.faults();
  report.removed_pages = core_.removed_pages();
  report.redundant_fills = redundant_fills_;
  report.gone_fills = gone_fills_;
  report.delayed_fills = delayed_fills_;
  report.damaged_chunks = damaged_chunks_;
  if (state_ == SessionState::kServing) {
    report.waiting_pages = wanted_.size() + asked_ + delayed_.size() + stuck_.size();
  }
  report.bytes_received = bytes_received_;
  report.latency_us_p50 = microseconds(latency_.quantile(0.5));
  report.latency_us_p99 = microseconds(latency_.quantile(0.99));
  report.latency_us_max = microseconds(latency_.max());
  return report;
}

}  // namespace thaw
