#include "pageserver/credible_time.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "pageserver/limits.h"

namespace thaw {

namespace {

using std::chrono::milliseconds;

void warn_of_jump(milliseconds ahead, const char* from) {
  log_warning(
      LogKind("jumps of the wall clock"),
      "the wall clock has jumped to {:.1f} hours {} {}: check that it is right. Until it has run "
      "evenly for {} hours, retention by age waits, and new snapshots get the time that went on "
      "from before. `thaw retain` does not wait; `thaw retain --dry-run` shows what it would do",
      std::chrono::duration<double, std::ratio<3600>>(std::chrono::abs(ahead)).count(),
      ahead.count() < 0 ? "behind" : "ahead of", from, limits::kClockSettling.count());
}

std::uint64_t to_unix_ms(milliseconds time) {
  return static_cast<std::uint64_t>(std::max(time, milliseconds(0)).count());
}

}  // namespace

ClockReading read_clocks() {
  return {milliseconds(static_cast<std::int64_t>(unix_milliseconds())), Clock::now()};
}

CredibleTime::CredibleTime(Source source) : source_(std::move(source)), agreed_(source_()) {
  moved_ = agreed_.monotonic;
}

void CredibleTime::begin(std::uint64_t known_unix_ms) {
  milliseconds ahead{0};
  {
    const std::lock_guard lock(mutex_);
    known_ = milliseconds(static_cast<std::int64_t>(known_unix_ms));
    if (known_ < limits::kEarliestTime) return;
    ahead = agreed_.wall - known_;
    doubtful_ = ahead < -limits::kClockTolerance || ahead > limits::kLongestStop;
    if (!doubtful_) return;
  }
  warn_of_jump(ahead, "the last time in the store");
}

std::uint64_t CredibleTime::now_unix_ms() {
  const ClockReading now = source_();
  const bool settled = look(now).settled;
  const std::lock_guard lock(mutex_);
  if (settled || !doubtful_ || known_ < limits::kEarliestTime) known_ = std::max(known_, now.wall);
  return to_unix_ms(known_);
}

std::uint64_t CredibleTime::known_unix_ms() {
  look(source_());
  const std::lock_guard lock(mutex_);
  return to_unix_ms(known_);
}

CredibleTime::Wall CredibleTime::wall() { return look(source_()); }

CredibleTime::Wall CredibleTime::look(const ClockReading& now) {
  milliseconds ahead{0};
  bool settled = false;
  bool jumped = false;
  {
    const std::lock_guard lock(mutex_);
    // Other threads may have looked since `now` was read.
    const auto passed =
        std::max(milliseconds(0), std::chrono::floor<milliseconds>(now.monotonic - moved_));
    moved_ += passed;
    if (known_ > milliseconds(0)) known_ += passed;
    const auto agreed_for = std::chrono::floor<milliseconds>(now.monotonic - agreed_.monotonic);
    ahead = now.wall - agreed_.wall - agreed_for;
    jumped = std::chrono::abs(ahead) > limits::kClockTolerance;
    if (jumped) {
      agreed_ = now;
      doubtful_ = true;
    } else if (agreed_for >= limits::kClockSettling && now.wall >= limits::kEarliestTime) {
      settled = true;
      doubtful_ = false;
      known_ = std::max(known_, now.wall);
    }
  }
  if (jumped) warn_of_jump(ahead, "the monotonic clock");
  return {to_unix_ms(now.wall), settled};
}

}  // namespace thaw
