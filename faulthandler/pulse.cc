#include "faulthandler/pulse.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <poll.h>

#include "base/event_fd.h"
#include "faulthandler/limits.h"

namespace thaw {

Nanoseconds StallClock::look(const Sight& sight) {
  const auto before = std::exchange(before_, sight);
  const bool held = sight.progress.state == ThreadState::kHeld;
  if (sight.answered || held || !before) {
    stalled_ = Nanoseconds(0);
    return stalled_;
  }
  Nanoseconds chance = std::min<Nanoseconds>(sight.at - before->at, interval_);
  if (sight.progress.state == ThreadState::kReady) {
    chance = std::min(chance, sight.progress.running - before->progress.running);
  }
  return stalled_ += chance;
}

PulseWatch::PulseWatch(Loop& loop, UniqueFd event, pid_t process, Nanoseconds patience,
                       std::function<void(Nanoseconds)> on_stall)
    : loop_(loop),
      event_(std::move(event)),
      process_(process),
      patience_(patience),
      on_stall_(std::move(on_stall)),
      clock_(limits::kPulse) {
  look();
}

void PulseWatch::stop() {
  stopped_ = true;
  loop_.cancel(waiting_);
}

void PulseWatch::look() {
  const bool answered = !wait_until_readable(event_, Deadline::after(Nanoseconds(0)));
  if (const auto progress = thread_progress(process_, process_)) {
    const Nanoseconds stalled = clock_.look({answered, Clock::now(), *progress});
    if (stalled >= patience_) return on_stall_(stalled);
  }
  signal_event_fd(event_);
  loop_.wait(limits::kPulse, waiting_);
}

PulseAnswer::PulseAnswer(Loop& loop, UniqueFd event) : loop_(loop), event_(std::move(event)) {
  loop_.poll(event_, POLLIN, asked_);
}

void PulseAnswer::on_asked(int result) {
  if (result < 0) return;
  clear_event_fd(event_);
  loop_.poll(event_, POLLIN, asked_);
}

}  // namespace thaw
