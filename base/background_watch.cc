#include "base/background_watch.h"

#include <chrono>
#include <utility>

#include "base/thread.h"

namespace thaw {

namespace {

constexpr std::chrono::milliseconds kLookInterval{2};
constexpr std::chrono::milliseconds kIdleAfter{100};

}  // namespace

Result<std::unique_ptr<BackgroundWatch>> BackgroundWatch::start(pid_t thread) {
  std::unique_ptr<BackgroundWatch> watch(new BackgroundWatch(thread));
  watch->watcher_ = TRY(start_thread([self = watch.get()] { self->watch(); }));
  return watch;
}

BackgroundWatch::~BackgroundWatch() {
  stopping_ = true;
  begin();
}

void BackgroundWatch::begin() {
  watching_.store(true);
  watching_.notify_one();
}

void BackgroundWatch::watch() {
  take_precedence();  // it would wait beside the threads that the other one waits for
  while (!stopping_) {
    watching_.wait(false);
    watch_background();
  }
}

void BackgroundWatch::watch_background() {
  StarvationWatch starvation(thread_);
  Clock::time_point last_run = Clock::now();
  while (watching_ && !stopping_) {
    std::this_thread::sleep_for(kLookInterval);
    const StarvationWatch::Seen seen = starvation.look();
    const Clock::time_point now = Clock::now();
    if (seen == StarvationWatch::Seen::kRan) last_run = now;
    const bool starves = seen == StarvationWatch::Seen::kStarved;
    if (!starves && now - last_run < kIdleAfter) continue;
    starved_ = starves;
    // In this order: a thread that enters the class again from here on is watched again.
    watching_ = false;
    static_cast<void>(set_scheduling_class(thread_, SchedulingClass::kNormal));
  }
}

}  // namespace thaw
