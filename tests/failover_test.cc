// A demand link to two page servers that answer when the test says so, and a guest that waits.

#include <gtest/gtest.h>

#include "tests/support/semantics.h"

namespace thaw::test {
namespace {

class FailoverTest : public testing::TestWithParam<LoopKind> {
 protected:
  FailoverTest() {
    loop_.run([this] {
      link_ = std::make_unique<DemandLink>(
          loop_.loop(), std::vector<ServerAddress>{first_.address(), second_.address()}, origin_);
    });
  }
  ~FailoverTest() override {
    guest_.reset();
    loop_.run([this] { link_->close(); });
    for (bool idle = false; !idle;) loop_.run([&] { idle = link_->idle(); });
    loop_.run([this] { link_.reset(); });
  }
  /// Both servers are there, and the first one is asked.
  ServedGuest& start(std::uint32_t around = 1) {
    guest_ = std::make_unique<ServedGuest>(
        loop_, *link_, GuestOptions{.map = content_pages(512), .around = around});
    guest_->attach();
    first_.accept();
    second_.accept();
    wait_until([this] { return link_->report(0).state == ServerState::kUp; });
    wait_until([this] { return link_->report(1).state == ServerState::kUp; });
    return *guest_;
  }
  /// Waits until it is so, on the loop's thread.
  template <typename Predicate>
  void wait_until(Predicate predicate) {
    const Deadline deadline = Deadline::after(kPatience);
    for (bool done = false; !done;) {
      ASSERT_FALSE(deadline.passed());
      loop_.run([&] { done = predicate(); });
    }
  }
  GuestThread touch(std::size_t page) {
    return GuestThread([this, page] { EXPECT_TRUE(guest_->has_content(page)) << page; });
  }
  std::uint64_t hedges() {
    std::uint64_t hedges = 0;
    loop_.run([&] { hedges = link_->hedges(); });
    return hedges;
  }

  ScriptedServer first_;
  ScriptedServer second_;
  const Origin origin_{store_of(1), "n"};
  LoopThread loop_{GetParam() == LoopKind::kUring ? create_loop : create_epoll_loop};
  std::unique_ptr<DemandLink> link_;
  std::unique_ptr<ServedGuest> guest_;
};

INSTANTIATE_TEST_SUITE_P(Loops, FailoverTest, both_loops(), loop_name);

TEST_P(FailoverTest, WhatALostServerWasAskedGoesToTheOtherAtOnce) {
  start();
  GuestThread vcpu = touch(3);
  EXPECT_EQ(first_.next_request().required, std::vector{chunk(3)});
  first_.hang_up();
  second_.reply(second_.next_request());
  vcpu.join();
  GuestThread next = touch(4);
  second_.reply(second_.next_request());
}

TEST_P(FailoverTest, LostServerIsFoundAgainAndKeepsTheSnapshot) {
  start();
  first_.hang_up();
  first_.accept();  // which answers the pin
  wait_until([this] { return link_->report(0).state == ServerState::kUp; });
  second_.hang_up();
  GuestThread vcpu = touch(3);
  first_.reply(first_.next_request());
}

TEST_P(FailoverTest, SlowServerIsHedgedAndItsLateReplyDropped) {
  ServedGuest& guest = start();
  GuestThread vcpu = touch(3);
  const auto late = first_.next_request();
  const auto hedge = second_.next_request();
  EXPECT_EQ(hedge.required, late.required);
  second_.reply(hedge);
  vcpu.join();
  EXPECT_EQ(hedges(), 1u);
  first_.reply(late);
  // A reply that is dropped loses nothing, least of all the connection.
  GuestThread next = touch(4);
  first_.reply(first_.next_request());
  next.join();
  EXPECT_EQ(guest.report().present_pages, 2u);
  EXPECT_EQ(guest.report().redundant_fills, 0u);
}

TEST_P(FailoverTest, ServerThatIsOutpacedAgainAndAgainIsLeft) {
  start();
  for (unsigned i = 0; i < limits::kMostOutpaced; ++i) {
    GuestThread vcpu = touch(i);
    first_.next_request();
    second_.reply(second_.next_request());
  }
  GuestThread vcpu = touch(100);
  second_.reply(second_.next_request());
  vcpu.join();
  EXPECT_FALSE(first_.has_request());
  ServerReport report;
  loop_.run([&] { report = link_->report(0); });
  EXPECT_EQ(report.state, ServerState::kSlow);
}

TEST_P(FailoverTest, DamagedChunkIsAskedOfTheOtherServer) {
  ServedGuest& guest = start();
  first_.set_tamper([](ChunkId, MutableByteSpan chunk) { chunk.back() ^= std::byte{1}; });
  GuestThread vcpu = touch(3);
  first_.reply(first_.next_request());
  const auto again = second_.next_request();
  EXPECT_EQ(again.required, std::vector{chunk(3)});
  second_.reply(again);
  vcpu.join();
  EXPECT_EQ(guest.report().damaged_chunks, 1u);
  EXPECT_EQ(guest.unservable(), "");
}

TEST_P(FailoverTest, ChunkThatOneServerLacksIsAskedOfTheOther) {
  ServedGuest& guest = start();
  GuestThread vcpu = touch(3);
  first_.refuse(first_.next_request(), ErrorCode::kNotFound);
  second_.reply(second_.next_request());
  vcpu.join();
  EXPECT_EQ(guest.unservable(), "");
}

TEST_P(FailoverTest, PageThatAllServersRefuseIsUnservable) {
  ServedGuest& guest = start();
  GuestThread vcpu = touch(3);
  first_.refuse(first_.next_request(), ErrorCode::kNotFound);
  second_.refuse(second_.next_request(), ErrorCode::kCorrupt);
  first_.refuse(first_.next_request(), ErrorCode::kNotFound);
  while (guest.unservable().empty()) std::this_thread::yield();
  // Everybody is asked again after a while.
  first_.reply(first_.next_request());
}

TEST_P(FailoverTest, PageThatAServerMayHaveWhichIsAwayIsWaitedFor) {
  ServedGuest& guest = start();
  second_.hang_up();
  wait_until([this] { return link_->report(1).state == ServerState::kAway; });
  GuestThread vcpu = touch(3);
  for (unsigned i = 0; i < limits::kMaxPageAttempts; ++i) {
    first_.refuse(first_.next_request(), ErrorCode::kNotFound);
  }
  second_.accept();
  for (bool there = false; !there;) {
    if (first_.has_request()) first_.refuse(first_.next_request(), ErrorCode::kNotFound);
    there = second_.has_request();
  }
  second_.reply(second_.next_request());
  vcpu.join();
  EXPECT_EQ(guest.unservable(), "");
}

TEST_P(FailoverTest, ServerOfAnotherStoreIsAskedForNothing) {
  second_.set_store(store_of(2));
  guest_ = std::make_unique<ServedGuest>(loop_, *link_, GuestOptions{.map = content_pages(512)});
  guest_->attach();
  first_.accept();
  second_.accept_and_be_left();
  GuestThread vcpu = touch(3);
  first_.reply(first_.next_request());
  vcpu.join();
  EXPECT_EQ(guest_->unservable(), "");
}

}  // namespace
}  // namespace thaw::test
