#include "faulthandler/supervisor.h"

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/event_fd.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/private_files.h"
#include "base/socket.h"
#include "faulthandler/handler_settings.h"
#include "faulthandler/limits.h"
#include "faulthandler/upgrade_guard.h"

namespace thaw {

namespace {

/// Before the handler that follows one which crashed as soon as it served.
constexpr auto kCrashPause = 10 * limits::kRestartFirst;

/// By its own doing, or by that of a session. SIGKILL comes from outside.
bool has_crashed(const ExitStatus& status) {
  return status.signal != 0 && status.signal != SIGKILL && status.signal != SIGTERM &&
         status.signal != SIGINT;
}

}  // namespace

Supervisor::Supervisor(Loop& loop, UniqueFd control, Programs programs, Inheritance before)
    : loop_(loop),
      programs_(std::move(programs)),
      before_(std::move(before)),
      control_(socket_identity(programs_.control)),
      errands_(programs_.begin_errands),
      doors_(programs_.doors),
      keep_(loop, std::move(control), *this) {
  keep_.set_upgrades(before_.upgrades);
  manager_.keep(kSettingsName, before_.settings);
}

void Supervisor::take_over(std::vector<NamedDescriptor> kept) {
  keep_.take_over(std::move(kept), before_.of_upgrade ? OutageCause::kUpgrade : OutageCause::kDeath,
                  before_.unserved_since);
}

int Supervisor::run(std::function<void()> on_ready) {
  on_ready_ = std::move(on_ready);
  if (before_.guard.valid()) loop_.wait(limits::kProbation, probation_);
  tell_alive();
  start_handler();
  if (const auto started = doors_.start(before_.settings); !started) {
    log_error("doors for VMMs: {}", started.error().message());  // which the first one tries again
  }
  loop_.run({.before = [] {}, .after = [this] { tidy(); }});
  return exit_code_;
}

void Supervisor::tell_alive() {
  const auto interval = manager_.alive_interval();
  if (!interval) return;
  manager_.alive();
  loop_.wait(*interval, telling_);
}

void Supervisor::tidy() {
  keep_.tidy();
  std::erase_if(ended_pulses_, [](const auto& pulse) { return pulse->finished(); });
  held_handlers_.remove_if([](const ChildProcess& held) { return held.status().has_value(); });
  std::erase_if(ended_proofs_, [](const auto& proof) { return proof->finished(); });
  if (stopping_ && !keep_.is_needed()) loop_.stop();
}

void Supervisor::signal(int number) {
  if (stopping_) return keep_.stop();
  last_signal_ = number;
  if (handler_) handler_->signal_group(number);
}

void Supervisor::reload() {
  reopen_log();
  if (stopping_) return;
  renew_control();
  // One that is being started reads everything anyway, and ignores the signal.
  if (handler_) handler_->signal_group(SIGHUP);
}

void Supervisor::on_probation_over() {
  const std::string reason = "no fault handler of it came to serve";
  if (before_.program.valid()) return go_back(reason);
  if (before_.guard.valid()) leave_to_guard(reason);
}

void Supervisor::renew_control() {
  const std::string& path = programs_.control;
  const auto now = socket_identity(path);
  if (path.empty() || (now && now == control_)) return;
  // Listening tells of a failure.
  static_cast<void>(make_public_directory(std::filesystem::path(path).parent_path()));
  auto listener = listen_unix(path, std::nullopt);
  if (!listener) {
    return log_error("the control socket was replaced: {}", listener.error().message());
  }
  log_warning("the control socket {} was removed, and is there again", path);
  control_ = socket_identity(path);
  keep_.replace_control(*std::move(listener));
}

void Supervisor::start_handler() {
  renew_control();
  if (const auto started = try_to_start(); !started) {
    log_error("no fault handler: {}", started.error().message());
    if (!keep_.has_served()) return stop(1);
    start_again_later();
  }
}

Result<void> Supervisor::try_to_start() {
  MessagePair ends = TRY(create_message_pair());
  UniqueFd pulse = TRY(create_event_fd());
  TRY(hand_over(ends.ours, before_.settings));
  TRY(hand_over(ends.ours, pulse));
  TRY(hand_over(ends.ours, TRY(errands_.connect())));
  ChildProcess handler = TRY(ChildProcess::start(
      {.command = programs_.handler, .file = programs_.handler_file, .passed = &ends.theirs}));
  // One that cannot be told what there is goes at once.
  TRY(keep_.begin_handler(std::move(ends.ours)));
  handler_.emplace(std::move(handler));
  pulse_event_ = std::move(pulse);
  loop_.poll(handler_->pidfd(), POLLIN, exiting_);
  return {};
}

void Supervisor::start_again_later() {
  loop_.wait(pause_, restarting_);
  pause_ = std::min<Nanoseconds>(pause_ * 2, limits::kRestartMost);
}

void Supervisor::on_handler_exit(int result) {
  if (!handler_) {
    // on_unkillable() has given it up.
    return go_on_without({.signal = SIGKILL}, keep_.end_handler(SessionKeep::Death::kOther));
  }
  if (result < 0) return;
  const auto status = handler_->status();
  if (!status) return loop_.poll(handler_->pidfd(), POLLIN, exiting_);
  loop_.cancel(dying_);
  // What it says last may be that it serves: it must be there to be told of a signal.
  const bool served = keep_.end_handler(has_crashed(*status) ? SessionKeep::Death::kCrash
                                                             : SessionKeep::Death::kOther);
  handler_.reset();
  go_on_without(*status, served);
}

void Supervisor::go_on_without(const ExitStatus& status, bool served) {
  errands_.disconnect();
  end_pulse();
  loop_.cancel(losing_);
  if (!served && before_.program.valid()) {
    return go_back(fmt::format("its fault handler {} before it served", status.text()));
  }
  if (!served && before_.guard.valid()) return leave_to_guard(status.text());
  const bool ended = status.signal == 0 && status.code == 0;
  if (ended || !keep_.has_served()) {
    return stop(status.signal != 0 ? 128 + status.signal : status.code);
  }
  log_error("the fault handler {}; another one goes on with {} sessions", status.text(),
            keep_.sessions());
  if (!served) return start_again_later();
  // One that crashes as soon as it serves would do so at once again, and take all CPUs for it.
  const bool early = has_crashed(status) && Clock::now() - served_since_ < limits::kRestartMost;
  if (early) return loop_.wait(kCrashPause, restarting_);
  start_handler();
}

void Supervisor::on_serving() {
  // Said to the one before, which may not have heard it.
  if (last_signal_ != 0) handler_->signal_group(last_signal_);
  served_since_ = Clock::now();
  pause_ = limits::kRestartFirst;
  pulse_ =
      std::make_unique<PulseWatch>(loop_, std::move(pulse_event_), handler_->pid(), stall_patience_,
                                   [this](Nanoseconds stalled) { on_stall(stalled); });
  if (before_.guard.valid()) dismiss_guard(before_.guard);
  if (before_.program.valid()) keep_.settle_upgrade({});
  for (UniqueFd* spent : {&before_.guard, &before_.program, &before_.previous}) spent->reset();
  loop_.cancel(probation_);
  if (std::exchange(announced_, true)) return;
  manager_.ready();
  on_ready_();
}

void Supervisor::on_settings(UniqueFd settings) {
  if (!settings.valid()) return;
  before_.settings = std::move(settings);
  manager_.forget(kSettingsName);
  manager_.keep(kSettingsName, before_.settings);
}

void Supervisor::on_handler_lost(KeepChannel::End end) {
  if (end == KeepChannel::End::kGivenUp) return kill_to_replace(kOutOfTouch);
  // Most often it is dead or about to exit.
  if (!losing_.active()) loop_.wait(limits::kHandlerExit, losing_);
}

void Supervisor::kill_to_replace(const std::string& why) {
  if (!handler_) return;
  log_error("the fault handler {}: it is killed, and another one goes on", why);
  if (const auto killed = kill_process(handler_->pidfd()); !killed) {
    log_error("{}", killed.error().message());
  }
  if (!dying_.active()) loop_.wait(limits::kHandlerDeath, dying_);
}

void Supervisor::on_unkillable() {
  if (!handler_ || handler_->status()) return;
  log_error("the fault handler was killed and does not end: another one goes on beside it");
  keep_.note_unkillable(handler_->pid());
  held_handlers_.push_back(std::move(*handler_));
  handler_.reset();
  loop_.cancel(exiting_);  // which goes on from there
}

void Supervisor::close(KeptSession kept) {
  if (kept.roles() == 0) return;
  auto left = doors_.close(std::move(kept), before_.settings);
  if (!left) return;
  unclosed_.push_back(*std::move(left));
  if (!closing_.active()) loop_.wait(limits::kRestartMost, closing_);
}

void Supervisor::close_all() {
  for (KeptSession& kept : std::exchange(unclosed_, {})) close(std::move(kept));
}

void Supervisor::on_stall(Nanoseconds stalled) {
  if (!handler_) return;
  keep_.note_stall(handler_->pid());
  const auto now = Clock::now();
  const bool again = now - std::exchange(stalled_at_, now) < limits::kStallsForgotten;
  stall_patience_ = again ? std::min<Nanoseconds>(stall_patience_ * 2, limits::kStalledMost)
                          : Nanoseconds(limits::kStalled);
  kill_to_replace(
      fmt::format("has stood still for {} ms",
                  std::chrono::duration_cast<std::chrono::milliseconds>(stalled).count()));
}

void Supervisor::end_pulse() {
  if (pulse_ == nullptr) return;
  pulse_->stop();
  ended_pulses_.push_back(std::move(pulse_));
}

Result<void> Supervisor::kill_handler() {
  end_pulse();
  if (!handler_) return {};
  TRY(kill_process(handler_->pidfd()));
  return wait_for_exit(handler_->pidfd(), Deadline::after(limits::kKilledExit));
}

void Supervisor::on_upgrade() {
  if (proof_ != nullptr || upgrading_.active()) return;  // they are told the same
  log_info("upgrade: starting {} beside this program", programs_.successor.front());
  auto proof =
      SuccessorProof::start(loop_, programs_.successor, before_.settings,
                            [this](Result<UniqueFd> settings) { on_proof(std::move(settings)); });
  if (!proof) return fail_upgrade(proof.error().message());
  proof_ = *std::move(proof);
}

void Supervisor::on_proof(Result<UniqueFd> settings) {
  ended_proofs_.push_back(std::move(proof_));
  if (!settings) return fail_upgrade(settings.error().message());
  successor_ = *std::move(settings);
  proven_at_ = Clock::now();
  loop_.wait(Nanoseconds(0), upgrading_);
}

void Supervisor::fail_upgrade(const std::string& reason) {
  log_error("upgrade: not done, the program before goes on: {}", reason);
  keep_.open_doors();
  keep_.settle_upgrade(reason);
}

void Supervisor::upgrade() {
  // The process that gave the proof is this one's child, and has to be reaped.
  const bool ready = handler_.has_value() && ended_proofs_.empty();
  const auto waited = Clock::now() - proven_at_;
  if (ready) keep_.close_doors();
  if (keep_.busy() || !ready) {
    if (waited < limits::kUpgradeStart) return loop_.wait(limits::kUpgradePause, upgrading_);
    return fail_upgrade(ready ? "handoffs of VMMs do not come to an end"
                              : "there is no fault handler to be replaced");
  }
  log_info("upgrade: becoming {}", programs_.successor.front());
  flush_log(Deadline::after(limits::kLogPatience));  // before VMs wait
  // From here on it says nothing; and it goes on should this process die before there is a guard.
  // VMs wait meanwhile, and nothing is waited for that a VMM decides.
  const auto paused = Clock::now();
  if (const auto stands = handler_->pause(Deadline::after(limits::kKilledExit)); !stands) {
    handler_->signal_group(SIGCONT);
    return fail_upgrade(stands.error().message());
  }
  std::vector<NamedDescriptor> kept = keep_.pass_on();
  Inheritance after{
      .settings = std::move(successor_), .upgrades = keep_.upgrades(), .unserved_since = paused};
  auto program = open_for_reading(kRunningProgram);
  auto guard = start_guard(kept, before_.settings, after.upgrades, handler_->pidfd(), paused);
  if (const auto killed = kill_handler(); !killed) {
    log_error("upgrade: left to the guard: {}", killed.error().message());
    return leave();
  }
  handler_.reset();
  const auto passed = [&]() -> Result<void> {
    after.program = TRY(std::move(program));
    after.guard = TRY(std::move(guard));
    after.previous = TRY(duplicate(before_.settings));
    return add_inheritance(kept, std::move(after));
  }();
  if (passed) become_another(programs_.successor.front(), programs_.successor, std::move(kept));
  log_error("upgrade: not done: {}", passed.error().message());
  CHECK(add_inheritance(kept, {.settings = std::move(before_.settings),
                               .upgrades = {keep_.upgrades().settled + 1, passed.error().message()},
                               .unserved_since = paused})
            .has_value());
  become_another(kRunningProgram, programs_.successor, std::move(kept));
}

void Supervisor::go_back(const std::string& reason) {
  log_error("upgrade: going back to the program before: {}", reason);
  if (const auto killed = kill_handler(); !killed) {
    // The guard takes over from this process.
    return leave();
  }
  const auto previous = read_settings(before_.previous);
  if (!previous) return leave();
  std::vector<NamedDescriptor> kept = keep_.pass_on();
  const Result<void> passed = add_inheritance(
      kept, {.settings = std::move(before_.previous),
             .guard = std::move(before_.guard),
             .upgrades = {keep_.upgrades().settled + 1, "the new program: " + reason},
             .unserved_since = before_.unserved_since});
  if (!passed) return leave();
  // It is started through its descriptor, and knows the name of nothing that has this one.
  kept.push_back({"spent", std::move(before_.program)});
  const auto number = kFirstPassed + static_cast<int>(kept.size()) - 1;
  become_another(fmt::format("/proc/self/fd/{}", number), previous->command, std::move(kept));
}

void Supervisor::leave_to_guard(const std::string& reason) {
  // What this process has of the new program, such as its limits, may be what is wrong.
  log_error(
      "upgrade: the program before does not serve in this process either ({}): its guard "
      "goes on",
      reason);
  leave();
}

void Supervisor::leave() {
  exit_code_ = 1;
  end_pulse();
  loop_.stop();
}

void Supervisor::become_another(const std::string& file, const std::vector<std::string>& command,
                                std::vector<NamedDescriptor> kept) {
  const auto failed = become_with(file, command, std::move(kept));
  log_error("{}", failed.error().message());
  // All descriptors are in place for the program that this one is.
  CHECK(become(kRunningProgram, command).has_value());
  std::unreachable();
}

void Supervisor::stop(int exit_code) {
  exit_code_ = exit_code;
  if (control_) remove_file(programs_.control, *control_);
  end_pulse();
  for (Operation* operation : {&restarting_, &upgrading_, &losing_, &probation_}) {
    loop_.cancel(*operation);
  }
  stopping_ = true;
  keep_.stop();
  if (!keep_.is_needed()) loop_.stop();
}

}  // namespace thaw
