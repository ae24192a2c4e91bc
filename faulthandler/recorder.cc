#include "faulthandler/recorder.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "format/limits.h"

namespace thaw {

void Recorder::start(Clock::time_point now) {
  // Only what is written takes memory.
  touches_.reserve(std::min<std::size_t>(memory_.value, limits::kMaxTouches));
  start_ = last_ = now;
  running_ = true;
}

void Recorder::note(PageIndex page, TouchKind kind, Clock::time_point now) {
  if (!running_ || touches_.size() == touches_.capacity()) return;
  if (std::exchange(in_prelude_, false)) start_ = now;
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now - start_).count();
  touches_.push_back({.page = page, .us = static_cast<std::uint32_t>(us), .kind = kind});
  ++count_;
  if (kind == TouchKind::kDemand) last_ = now;
}

void Recorder::note_prelude() {
  CHECK(running_);
  in_prelude_ = true;
  for (Touch& touch : touches_) touch.us = 0;
}

Clock::time_point Recorder::end() const {
  CHECK(running_);
  if (touches_.size() == touches_.capacity()) return last_;
  return std::min(last_ + window_.idle, start_ + window_.most);
}

}  // namespace thaw
