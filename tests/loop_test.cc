// The event loop's contract, on each of its adapters.

#include <algorithm>
#include <cerrno>
#include <functional>
#include <thread>

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/event_fd.h"
#include "base/socket.h"
#include "faulthandler/sys/create_loop.h"
#include "faulthandler/sys/epoll_loop.h"
#include "faulthandler/sys/uring_loop.h"
#include "tests/support/loop_kind.h"
#include "tests/support/loopback.h"
#include "tests/support/programs.h"
#include "tests/support/seccomp.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<Loop> create(LoopKind kind) {
  auto loop = kind == LoopKind::kEpoll
                  ? create_epoll_loop()
                  : create_uring_loop(kind == LoopKind::kUring ? RingFeatures::kLinux61
                                                               : RingFeatures::kOlder);
  EXPECT_TRUE(succeeded(loop));
  return *std::move(loop);
}

const Loop::Turn kIdleTurn{[] {}, [] {}};

/// An operation, and what came of it.
struct Noted {
  explicit Noted(std::function<void()> then = [] {})
      : operation([this, then = std::move(then)](int r) {
          result = r;
          ++completions;
          then();
        }) {}
  Noted(const Noted&) = delete;
  Noted& operator=(const Noted&) = delete;

  int result = 1 << 30;
  int completions = 0;
  Operation operation;
};

class LoopTest : public testing::TestWithParam<LoopKind> {
 protected:
  LoopTest() {
    if (GetParam() != LoopKind::kEpoll && !io_uring_is_allowed()) return;
    loop_ = create(GetParam());
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    near_ = UniqueFd(ends[0]);
    far_ = UniqueFd(ends[1]);
  }
  void SetUp() override {
    if (loop_ == nullptr) GTEST_SKIP() << "io_uring is not allowed here";
  }
  /// Runs until `done()`; fails after a while.
  void run_until(std::function<bool()> done) {
    Noted patience([this] { loop_->stop(); });
    loop_->wait(std::chrono::seconds(kPatience), patience.operation);
    loop_->run({.before = [] {},
                .after =
                    [&] {
                      if (done()) loop_->stop();
                    }});
    EXPECT_EQ(patience.result, -ECANCELED) << "it took too long";
  }
  std::function<void()> stopping() {
    return [this] { loop_->stop(); };
  }

  std::unique_ptr<Loop> loop_;
  UniqueFd near_;
  UniqueFd far_;
};

INSTANTIATE_TEST_SUITE_P(Loops, LoopTest,
                         testing::Values(LoopKind::kUring, LoopKind::kOlderUring, LoopKind::kEpoll),
                         loop_name);

TEST_P(LoopTest, BytesGoThroughBothWays) {
  const std::string_view text = "ping";
  Bytes buffer(16);
  Noted received(stopping());
  Noted sent;
  loop_->receive(far_, buffer, received.operation);
  loop_->send(near_, as_bytes(text), sent.operation);
  EXPECT_EQ(sent.completions + received.completions, 0) << "nothing completes in the call";
  run_until([] { return false; });
  EXPECT_EQ(sent.result, 4);
  EXPECT_EQ(received.result, 4);
}

TEST_P(LoopTest, EndOfTheOtherSideIsZeroBytes) {
  Bytes buffer(16);
  Noted received(stopping());
  loop_->receive(far_, buffer, received.operation);
  near_.reset();
  run_until([] { return false; });
  EXPECT_EQ(received.result, 0);
}

TEST_P(LoopTest, SendingToNobodyIsAnErrorAndNoSignal) {
  far_.reset();
  const std::string_view text = "ping";
  Noted sent(stopping());
  loop_->send(near_, as_bytes(text), sent.operation);
  run_until([] { return false; });
  EXPECT_EQ(sent.result, -EPIPE);
}

TEST_P(LoopTest, PollTellsOnceWhatIsThere) {
  const UniqueFd event = create_event_fd().value();
  Noted readable(stopping());
  loop_->poll(event, POLLIN, readable.operation);
  signal_event_fd(event);
  run_until([] { return false; });
  EXPECT_EQ(readable.result & POLLIN, POLLIN);
  EXPECT_EQ(readable.completions, 1);
}

TEST_P(LoopTest, TimersCompleteInTheirOrder) {
  std::vector<int> order;
  Noted third([&] { order.push_back(3); });
  Noted first([&] { order.push_back(1); });
  Noted second([&] { order.push_back(2); });
  const auto start = Clock::now();
  loop_->wait(9ms, third.operation);
  loop_->wait(1ms, first.operation);
  loop_->wait(5ms, second.operation);
  run_until([&] { return third.completions == 1; });
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(first.result, -ETIME);
  EXPECT_GE(Clock::now() - start, 9ms);
}

TEST_P(LoopTest, WhatIsCancelledCompletesOnceAndBeginsAnew) {
  Bytes buffer(16);
  Noted received;
  Noted timer;
  Noted readable;
  const UniqueFd event = create_event_fd().value();
  loop_->receive(far_, buffer, received.operation);
  loop_->wait(1h, timer.operation);
  loop_->poll(event, POLLIN, readable.operation);
  Noted start([&] {
    for (Noted* const noted : {&received, &timer, &readable}) loop_->cancel(noted->operation);
  });
  loop_->wait(1ms, start.operation);
  bool again = false;
  run_until([&] {
    if (received.completions + timer.completions + readable.completions == 3 && !again) {
      again = true;
      loop_->wait(1ms, timer.operation);
    }
    return timer.completions == 2;
  });
  EXPECT_EQ(received.result, -ECANCELED);
  EXPECT_EQ(readable.result, -ECANCELED);
  EXPECT_EQ(timer.result, -ETIME);
}

TEST_P(LoopTest, StopCancelsAllThatIsUnderWay) {
  Bytes buffer(16);
  std::vector<std::unique_ptr<Noted>> timers;
  for (int i = 0; i < 3000; ++i) {
    timers.push_back(std::make_unique<Noted>());
    loop_->wait(1h, timers.back()->operation);
  }
  Noted received;
  loop_->receive(far_, buffer, received.operation);
  Noted soon(stopping());
  loop_->wait(1ms, soon.operation);
  loop_->run(kIdleTurn);
  EXPECT_EQ(received.result, -ECANCELED);
  for (const auto& timer : timers) {
    ASSERT_EQ(timer->completions, 1);
    ASSERT_EQ(timer->result, -ECANCELED);
  }
}

TEST_P(LoopTest, ClosedDescriptorMayComeBackUnderItsNumber) {
  Bytes buffer(16);
  UniqueFd event = create_event_fd().value();
  const int number = event.get();
  Noted second(stopping());
  Noted first([&] {
    event.reset();
    event = create_event_fd().value();
    loop_->poll(event, POLLIN, second.operation);
    signal_event_fd(event);
  });
  loop_->poll(event, POLLIN, first.operation);
  signal_event_fd(event);
  run_until([] { return false; });
  EXPECT_EQ(event.get(), number);
  EXPECT_EQ(second.result & POLLIN, POLLIN);
}

TEST_P(LoopTest, Connects) {
  TcpListener listener;
  const UniqueFd first = create_tcp_socket(listener.address).value();
  Noted connected(stopping());
  loop_->connect(first, listener.address, connected.operation);
  run_until([] { return false; });
  EXPECT_EQ(connected.result, 0);
}

TEST_P(LoopTest, RefusedConnectionIsAnError) {
  TcpListener listener;
  listener.socket.reset();
  const UniqueFd socket = create_tcp_socket(listener.address).value();
  Noted connected(stopping());
  loop_->connect(socket, listener.address, connected.operation);
  run_until([] { return false; });
  EXPECT_EQ(connected.result, -ECONNREFUSED);
}

TEST_P(LoopTest, SpinningChangesNothingButTheWaiting) {
  loop_->set_spin(20ms);
  const UniqueFd event = create_event_fd().value();
  int turns = 0;
  Noted readable;
  std::function<void()> next = [&] {
    if (++turns < 50) loop_->poll(event, POLLIN, readable.operation);
  };
  Noted kick([&] { next(); });
  loop_->wait(1us, kick.operation);
  signal_event_fd(event);
  run_until([&] {
    if (readable.completions > 0 && !readable.operation.active()) next();
    return turns >= 50;
  });
  EXPECT_EQ(readable.completions, 49);
}

TEST(CreateLoop, IsEpollWhereIoUringIsForbidden) {
  std::thread([] {
    forbid_io_uring();
    const auto before = open_descriptors(::getpid());
    const auto loop = create_loop();
    ASSERT_TRUE(succeeded(loop));
    const auto after = open_descriptors(::getpid());
    EXPECT_EQ(std::ranges::count(after, "anon_inode:[io_uring]"),
              std::ranges::count(before, "anon_inode:[io_uring]"));
    Noted timer([&] { (*loop)->stop(); });
    (*loop)->wait(1ms, timer.operation);
    (*loop)->run(kIdleTurn);
    EXPECT_EQ(timer.result, -ETIME);
  }).join();
}

TEST(EpollLoop, WaitsOnKernelsWithoutNanoseconds) {
  std::thread([] {
    hide_epoll_pwait2();
    const auto loop = create_epoll_loop();
    ASSERT_TRUE(succeeded(loop));
    const auto start = Clock::now();
    Noted timer([&] { (*loop)->stop(); });
    (*loop)->wait(3ms, timer.operation);
    (*loop)->run(kIdleTurn);
    EXPECT_EQ(timer.result, -ETIME);
    EXPECT_GE(Clock::now() - start, 3ms);
  }).join();
}

}  // namespace
}  // namespace thaw::test
