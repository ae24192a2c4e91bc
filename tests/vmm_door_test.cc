// Which of the processes that connect to a session's socket is its VMM: the real class on real
// sockets.

#include "faulthandler/vmm_door.h"

#include <array>
#include <cerrno>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "base/event_fd.h"
#include "base/passed_descriptors.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "faulthandler/sys/epoll_loop.h"
#include "format/handoff.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

void say_nothing(LogLevel, const std::string&) {}

class VmmDoorTest : public testing::Test {
 protected:
  /// A process that connects and says this.
  void visit(std::string_view text, const std::vector<int>& descriptors = {}) {
    const Deadline deadline = Deadline::after(std::chrono::seconds(30));
    visitors_.push_back(connect_unix(path_, deadline).value());
    if (text.empty()) return;
    ASSERT_TRUE(
        succeeded(send_with_descriptors(visitors_.back(), as_bytes(text), descriptors, deadline)));
  }
  void visit_and_go(std::string_view text, const std::vector<int>& descriptors = {}) {
    visit(text, descriptors);
    visitors_.pop_back();
  }
  /// What comes of them all.
  Arrival arrival() {
    std::optional<Arrival> came;
    KeptSession kept;
    kept[KeptRole::kListener] = std::move(listener_);
    DescriptorReserve reserve;
    VmmDoor door(*loop_, std::move(kept), reserve,
                 {.on_arrival =
                      [&](Arrival arrival) {
                        came = std::move(arrival);
                        loop_->stop();
                      },
                  .on_vmm = [](const KeptSession&) {},
                  .say = say_nothing});
    loop_->run({.before = [] {}, .after = [] {}});
    EXPECT_TRUE(door.finished());
    return std::move(came).value();
  }
  bool was_left(const UniqueFd& visitor) {
    std::array<std::byte, 1> byte;
    const auto there = peek(visitor, byte);
    return !there || (there->has_value() && **there == 0);
  }

  const ScratchDirectory directory_;
  const std::string path_ = directory_.path("vm");
  const std::unique_ptr<Loop> loop_ = create_epoll_loop().value();
  UniqueFd listener_ = listen_unix(path_, std::nullopt).value();
  std::vector<UniqueFd> visitors_;
  const UniqueFd uffd_ = create_userfaultfd().value();
  const UniqueFd other_ = create_event_fd().value();
  const std::string handoff_ = encode_handoff({{{1u << 20}, {1u << 20}, {0}, {4096}}});
};

TEST_F(VmmDoorTest, ConnectionsWithoutAUserfaultfdLeaveTheSessionItsVmm) {
  visit("");
  visit_and_go("");
  visit("garbage");
  visit_and_go("[{");
  visit(handoff_);
  visit(handoff_, {other_.get()});
  visit("[", {other_.get()});
  visit_and_go(handoff_, {other_.get(), other_.get(), other_.get()});
  visit(handoff_, {uffd_.get()});

  const Arrival came = arrival();

  EXPECT_FALSE(came.refusal.has_value()) << came.refusal->message();
  EXPECT_EQ(came.handoff, handoff_);
  EXPECT_TRUE(came.userfaultfd.valid());
  EXPECT_TRUE(was_left(visitors_.front()));
  EXPECT_FALSE(was_left(visitors_.back()));
}

TEST_F(VmmDoorTest, VmmThatHasHandedOverSendsNoMoreDescriptors) {
  if (!can_refuse_descriptors()) GTEST_SKIP() << "the kernel cannot refuse descriptors";
  visit(handoff_, {uffd_.get()});

  const Arrival came = arrival();

  ASSERT_TRUE(came.connection.valid());
  const Deadline deadline = Deadline::after(std::chrono::seconds(30));
  const std::array more{other_.get()};
  const auto sent = send_with_descriptors(visitors_.back(), as_bytes("x"), more, deadline);
  ASSERT_FALSE(sent.has_value());
  EXPECT_EQ(sent.error().error_number(), EPERM);
  EXPECT_TRUE(succeeded(send_all(visitors_.back(), as_bytes("x"), deadline)));
}

TEST_F(VmmDoorTest, VmmThatHandsOverWhatIsWrongIsRefused) {
  visit("");
  visit("garbage", {uffd_.get()});

  const Arrival came = arrival();

  ASSERT_TRUE(came.refusal.has_value());
  EXPECT_EQ(came.refusal->code(), ErrorCode::kMalformed);
  EXPECT_TRUE(came.userfaultfd.valid());
}

TEST_F(VmmDoorTest, VmmThatDiesInTheMidstOfItsHandoffIsNotReplaced) {
  visit_and_go("[{", {uffd_.get()});
  visit(handoff_, {uffd_.get()});

  const Arrival came = arrival();

  ASSERT_TRUE(came.refusal.has_value());
  EXPECT_EQ(came.refusal->code(), ErrorCode::kTruncated);
}

TEST_F(VmmDoorTest, WhatWasSentBeforeItClosesIsNotLost) {
  KeptSession kept;
  kept[KeptRole::kListener] = std::move(listener_);
  DescriptorReserve reserve;
  VmmDoor door(*loop_, std::move(kept), reserve,
               {.on_arrival = [](const Arrival&) {},
                .on_vmm = [](const KeptSession&) {},
                .say = say_nothing});
  visit("");
  visit(handoff_, {uffd_.get()});
  visit("[", {uffd_.get()});

  const Arrival came = door.close(VmmDoor::Queue::kHeard);

  EXPECT_FALSE(came.refusal.has_value()) << came.refusal->message();
  EXPECT_EQ(came.handoff, handoff_);
  EXPECT_TRUE(came.userfaultfd.valid());
  EXPECT_TRUE(came.other_userfaultfds.valid());
  EXPECT_FALSE(was_left(visitors_[1]));
  EXPECT_TRUE(was_left(visitors_.back()));
  loop_->stop();
  loop_->run({.before = [] {}, .after = [] {}});
  EXPECT_TRUE(door.finished());
}

TEST_F(VmmDoorTest, SilentConnectionsMakeRoomForTheVmm) {
  for (std::size_t i = 0; i < 2 * limits::kMaxVmmCandidates; ++i) visit("");
  visit(handoff_, {uffd_.get()});

  EXPECT_EQ(arrival().handoff, handoff_);
}

}  // namespace
}  // namespace thaw::test
