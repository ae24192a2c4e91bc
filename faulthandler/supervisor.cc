#include "faulthandler/supervisor.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"

namespace thaw {

Supervisor::Supervisor(Loop& loop, UniqueFd control, Commands commands)
    : loop_(loop), commands_(std::move(commands)), keep_(loop, std::move(control), *this) {}

void Supervisor::take_over(std::vector<NamedDescriptor> kept) { keep_.take_over(std::move(kept)); }

int Supervisor::run(std::function<void()> on_ready) {
  on_ready_ = std::move(on_ready);
  start_handler();
  loop_.run({.before = [] {}, .after = [this] { keep_.tidy(); }});
  return exit_code_;
}

void Supervisor::signal(int number) {
  last_signal_ = number;
  if (handler_) handler_->signal_group(number);
}

void Supervisor::start_handler() {
  if (const auto started = try_to_start(); !started) {
    log_error("no fault handler: {}", started.error().message());
    if (!keep_.has_served()) return stop(1);
    start_again_later();
  }
}

Result<void> Supervisor::try_to_start() {
  MessagePair ends = TRY(create_message_pair());
  ChildProcess handler = TRY(ChildProcess::start(commands_.handler, {}, ends.theirs));
  // One that cannot be told what there is goes at once.
  TRY(keep_.begin_handler(std::move(ends.ours)));
  handler_.emplace(std::move(handler));
  loop_.poll(handler_->pidfd(), POLLIN, exiting_);
  return {};
}

void Supervisor::start_again_later() {
  loop_.wait(pause_, restarting_);
  pause_ = std::min<Nanoseconds>(pause_ * 2, limits::kRestartMost);
}

void Supervisor::on_handler_exit(int result) {
  if (result < 0) return;
  const auto status = handler_->status();
  if (!status) return loop_.poll(handler_->pidfd(), POLLIN, exiting_);
  // What it says last may be that it serves: it must be there to be told of a signal.
  const bool served = keep_.end_handler();
  handler_.reset();
  const bool ended = status->signal == 0 && status->code == 0;
  if (ended || !keep_.has_served()) {
    return stop(status->signal != 0 ? 128 + status->signal : status->code);
  }
  log_error("the fault handler {}; another one goes on with {} sessions", status->text(),
            keep_.sessions());
  if (served) return start_handler();
  start_again_later();
}

void Supervisor::on_serving() {
  // Said to the one before, which may not have heard it.
  if (last_signal_ != 0) handler_->signal_group(last_signal_);
  pause_ = limits::kRestartFirst;
  if (std::exchange(announced_, true)) return;
  manager_.ready();
  on_ready_();
}

void Supervisor::on_upgrade() {
  // Who asked is to be told that it is under way.
  if (!upgrading_.active()) loop_.wait(limits::kUpgradePause, upgrading_);
}

void Supervisor::upgrade() {
  if (keep_.busy()) return loop_.wait(limits::kUpgradePause, upgrading_);
  log_info("becoming {}", commands_.supervisor.front());
  // Whoever comes next goes on where this one is killed.
  if (handler_) {
    const auto killed = kill_process(handler_->pidfd());
    if (!killed) log_error("{}", killed.error().message());
    const auto exited = wait_for_exit(handler_->pidfd(), Deadline::after(limits::kKilledExit));
    if (!exited) return log_error("not upgraded: {}", exited.error().message());
  }
  auto kept = keep_.pass_on();
  if (!kept) return log_error("not upgraded: {}", kept.error().message());
  handler_.reset();
  const auto failed = become_with(commands_.supervisor, *std::move(kept));
  log_error("{}", failed.error().message());
  // Nothing is as it was, but all descriptors are in place for the program that this one is.
  std::vector<std::string> same = commands_.supervisor;
  same.front() = "/proc/self/exe";
  CHECK(become(same).has_value());
}

void Supervisor::stop(int exit_code) {
  exit_code_ = exit_code;
  keep_.stop();
  loop_.stop();
}

}  // namespace thaw
