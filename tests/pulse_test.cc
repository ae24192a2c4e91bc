#include "faulthandler/pulse.h"

#include <optional>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/event_fd.h"
#include "base/file.h"
#include "base/process.h"
#include "faulthandler/limits.h"
#include "faulthandler/sys/epoll_loop.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using std::chrono::milliseconds;

class StallClockTest : public testing::Test {
 protected:
  Nanoseconds look(milliseconds later, bool answered, ThreadState state,
                   milliseconds ran = milliseconds(0)) {
    at_ += later;
    running_ += ran;
    return clock_.look({answered, at_, {state, running_}});
  }

  StallClock clock_{milliseconds(250)};
  Clock::time_point at_{};
  Nanoseconds running_{0};
};

TEST_F(StallClockTest, AddsUpWhileNothingIsAnswered) {
  EXPECT_EQ(look(milliseconds(0), false, ThreadState::kWaiting), Nanoseconds(0));
  EXPECT_EQ(look(milliseconds(250), false, ThreadState::kWaiting), milliseconds(250));
  EXPECT_EQ(look(milliseconds(250), false, ThreadState::kWaiting), milliseconds(500));
  EXPECT_EQ(look(milliseconds(250), true, ThreadState::kWaiting), Nanoseconds(0));
  EXPECT_EQ(look(milliseconds(250), false, ThreadState::kWaiting), milliseconds(250));
}

TEST_F(StallClockTest, OfAThreadThatIsReadyCountsWhatItRan) {
  look(milliseconds(0), false, ThreadState::kReady);
  EXPECT_EQ(look(milliseconds(250), false, ThreadState::kReady), Nanoseconds(0));
  EXPECT_EQ(look(milliseconds(250), false, ThreadState::kReady, milliseconds(10)),
            milliseconds(10));
  EXPECT_EQ(look(milliseconds(250), false, ThreadState::kReady, milliseconds(250)),
            milliseconds(260));
}

TEST_F(StallClockTest, TimeInWhichNothingRanDoesNotCount) {
  look(milliseconds(0), false, ThreadState::kWaiting);
  EXPECT_EQ(look(milliseconds(60'000), false, ThreadState::kWaiting), milliseconds(250));
}

TEST_F(StallClockTest, ThreadThatADebuggerHoldsIsMeantToStand) {
  look(milliseconds(0), false, ThreadState::kWaiting);
  look(milliseconds(250), false, ThreadState::kWaiting);
  EXPECT_EQ(look(milliseconds(250), false, ThreadState::kHeld), Nanoseconds(0));
}

TEST(PulseWatch, TellsOfAProcessThatDoesNotAnswer) {
  const auto loop = create_epoll_loop().value();
  const auto process = ChildProcess::start({.command = {"sleep", "60"}});
  ASSERT_TRUE(succeeded(process));
  std::optional<Nanoseconds> stalled;
  PulseWatch watch(*loop, create_event_fd().value(), process->pid(), limits::kStalled,
                   [&](Nanoseconds time) {
                     stalled = time;
                     loop->stop();
                   });
  loop->run({.before = [] {}, .after = [] {}});

  EXPECT_GE(stalled, limits::kStalled);
  EXPECT_TRUE(succeeded(kill_process(process->pidfd())));
}

TEST(PulseWatch, LeavesALoopAloneThatTurns) {
  const auto loop = create_epoll_loop().value();
  const UniqueFd event = create_event_fd().value();
  bool stalled = false;
  PulseAnswer answer(*loop, duplicate(event).value());
  PulseWatch watch(*loop, duplicate(event).value(), ::getpid(), limits::kPulse,
                   [&](Nanoseconds) { stalled = true; });
  Operation enough([&](int) {
    watch.stop();
    loop->stop();
  });
  loop->wait(8 * limits::kPulse, enough);
  loop->run({.before = [] {}, .after = [] {}});

  EXPECT_FALSE(stalled);
}

}  // namespace
}  // namespace thaw::test
