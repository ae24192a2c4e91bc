// Threads of the background class that wait for a CPU, on the scheduler of this host.

#include "base/background_watch.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <semaphore>
#include <thread>

#include <sched.h>

#include "base/clock.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::succeeded;

/// A thread in the background class on one CPU, and another one that keeps that CPU busy.
class BackgroundTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!may_leave_background()) GTEST_SKIP() << "needs the right to leave the class again";
    const CpuSet cpus = allowed_cpus(0).value();
    while (!cpus[static_cast<std::size_t>(cpu_)]) ++cpu_;
  }
  void TearDown() override {
    busy_ = false;
    sleep_.release();
  }
  /// Enters the class, calls `then`, and sleeps or wants the CPU until the test ends.
  pid_t start_background(bool sleeps, std::function<void(pid_t)> then = [](pid_t) {}) {
    std::promise<pid_t> id;
    auto known = id.get_future();
    background_ =
        std::jthread([this, sleeps, then = std::move(then), id = std::move(id)]() mutable {
          EXPECT_TRUE(ThreadPlace(this_thread_id()).move(cpu_, SchedulingClass::kBackground));
          then(this_thread_id());
          id.set_value(this_thread_id());
          if (sleeps) sleep_.acquire();
          while (busy_) {
          }
        });
    return known.get();
  }
  void keep_cpu_busy() {
    hog_ = std::jthread([this] {
      EXPECT_TRUE(succeeded(set_allowed_cpus(0, only_cpu(cpu_))));
      while (busy_) {
      }
    });
  }
  static bool comes_true(const std::function<bool()>& condition) {
    const auto deadline = Deadline::after(std::chrono::seconds(30));
    while (!condition()) {
      if (deadline.passed()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  int cpu_ = 0;
  std::atomic<bool> busy_ = true;
  std::binary_semaphore sleep_{0};
  std::jthread hog_;
  std::jthread background_;
};

TEST_F(BackgroundTest, AThreadStarvesIfItIsReadyAndDoesNotRun) {
  using Seen = StarvationWatch::Seen;
  StarvationWatch watch(start_background(false));
  keep_cpu_busy();

  EXPECT_TRUE(comes_true([&] { return watch.look() == Seen::kStarved; }));
}

TEST_F(BackgroundTest, AThreadThatSleepsDoesNotStarve) {
  using Seen = StarvationWatch::Seen;
  StarvationWatch watch(start_background(true));
  keep_cpu_busy();

  EXPECT_TRUE(comes_true([&] { return watch.look() == Seen::kWaited; }));
  EXPECT_EQ(watch.look(), Seen::kWaited);
}

TEST_F(BackgroundTest, IsLeftForAThreadThatStarves) {
  std::unique_ptr<BackgroundWatch> watch;
  const pid_t thread = start_background(false, [&](pid_t id) {
    watch = BackgroundWatch::start(id).value();
    watch->begin();
  });
  keep_cpu_busy();

  EXPECT_TRUE(comes_true([&] { return !watch->watching() && watch->starved(); }));
  EXPECT_TRUE(comes_true([&] { return ::sched_getscheduler(thread) == SCHED_OTHER; }));
  busy_ = false;
  background_.join();
}

TEST_F(BackgroundTest, IsLeftForAThreadThatHasNothingToDo) {
  const pid_t thread = start_background(true);
  StarvationWatch sleeping(thread);
  ASSERT_TRUE(comes_true([&] { return sleeping.look() == StarvationWatch::Seen::kWaited; }));
  const auto watch = BackgroundWatch::start(thread).value();
  // What is begun anew is watched anew.
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(succeeded(set_scheduling_class(thread, SchedulingClass::kBackground)));
    watch->begin();
    EXPECT_TRUE(comes_true([&] { return ::sched_getscheduler(thread) == SCHED_OTHER; }));
    EXPECT_FALSE(watch->watching());
    EXPECT_FALSE(watch->starved());
  }
}

}  // namespace
}  // namespace thaw
