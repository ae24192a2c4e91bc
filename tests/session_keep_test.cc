// What a supervisor keeps, and what it hears of handlers that die at awkward moments: the real
// classes on real sockets, without processes.

#include "faulthandler/session_keep.h"

#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "base/event_fd.h"
#include "base/file.h"
#include "base/place.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "faulthandler/memory_record.h"
#include "faulthandler/served_door.h"
#include "faulthandler/session_table.h"
#include "faulthandler/sys/epoll_loop.h"
#include "format/control.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Kind = KeepMessage::Kind;
using Death = SessionKeep::Death;

class SessionKeepTest : public testing::Test, private SessionKeep::Owner {
 protected:
  ~SessionKeepTest() override {
    keep_.stop();
    for (auto& channel : handlers_) channel->close();
    run();
  }
  /// Starts a handler that says this before it has heard anything.
  void begin_handler(std::vector<KeepMessage> words) {
    MessagePair ends = create_message_pair().value();
    ASSERT_TRUE(succeeded(keep_.begin_handler(std::move(ends.ours))));
    handlers_.push_back(std::make_unique<KeepChannel>(
        *loop_, std::move(ends.theirs), reserve_, [](const KeepMessage&) {},
        [](KeepChannel::End) {}));
    for (KeepMessage& word : words) handlers_.back()->send(std::move(word));
  }
  void begin_serving_handler() {
    std::vector<KeepMessage> words;
    words.push_back({.kind = Kind::kServing});
    begin_handler(std::move(words));
  }
  std::unique_ptr<SessionKeep> make_successor() {
    SessionKeep::Owner& owner = *this;  // a private base: make_unique may not convert
    return std::make_unique<SessionKeep>(*loop_, create_message_pair().value().ours, owner);
  }
  /// Lets all that is under way come to its end.
  void run() {
    loop_->stop();
    loop_->run({.before = [] {}, .after = [] {}});
  }

  std::unique_ptr<Loop> loop_ = create_epoll_loop().value();
  std::vector<std::unique_ptr<KeepChannel>> handlers_;
  DescriptorReserve reserve_;
  std::vector<std::unique_ptr<ServedDoor>> doors_;
  unsigned served_ = 0;
  SessionKeep keep_{*loop_, create_message_pair().value().ours, *this};

 private:
  Result<UniqueFd> open_door(KeepMessage order) override {
    MessagePair ends = TRY(create_message_pair());
    order.descriptors[KeptRole::kConnection] = std::move(ends.theirs);
    doors_.push_back(std::make_unique<ServedDoor>(*loop_, std::move(order), [] {}));
    return std::move(ends.ours);
  }
  void close(KeptSession) override {}
  void keep(const std::string&, const UniqueFd&) override {}
  void forget(const std::string&) override {}
  void on_serving() override { ++served_; }
  void on_upgrade() override {}
  void on_settings(UniqueFd) override {}
  void on_handler_lost(KeepChannel::End) override {}
};

TEST_F(SessionKeepTest, HandlersMayDieAsSoonAsTheyServe) {
  for (unsigned deaths = 1; deaths <= 3; ++deaths) {
    begin_serving_handler();

    EXPECT_TRUE(keep_.end_handler(Death::kOther));

    EXPECT_EQ(served_, deaths);
  }
}

MemoryRecord record_with(UnservablePolicy policy) {
  control::Prepare request;
  request.on_unservable = policy;
  return MemoryRecord::create(encode_control_request(request), PageCount{1}).value();
}

/// A session whose VMM is this process, and has handed something over.
KeptSession arrived_session(const MemoryRecord& record, const UniqueFd& vmm) {
  KeptSession kept;
  kept[KeptRole::kListener] = create_event_fd().value();
  kept[KeptRole::kRecord] = duplicate(record.file()).value();
  kept[KeptRole::kPidfd] = duplicate(vmm).value();
  kept[KeptRole::kUserfaultfd] = create_event_fd().value();
  kept[KeptRole::kArrival] = create_event_fd().value();
  return kept;
}

/// What a handler says of a session of which it has not heard that its VMM came.
std::vector<KeepMessage> words_of_a_session(KeptSession arrived) {
  std::vector<KeepMessage> words;
  words.push_back({.kind = Kind::kKeep, .session = 7, .descriptors = std::move(arrived)});
  words.push_back({.kind = Kind::kDrop, .session = 7});
  return words;
}

TEST_F(SessionKeepTest, LookingForAPolicyChangesNothingUnderWhoeverServes) {
  const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
  const MemoryRecord record = record_with(UnservablePolicy::kKill);
  record.states()[0] = PageState::kComing;

  begin_handler(words_of_a_session(arrived_session(record, vmm.pidfd())));
  keep_.end_handler(Death::kOther);

  EXPECT_EQ(record.states()[0], PageState::kComing);
  EXPECT_TRUE(succeeded(wait_for_exit(vmm.pidfd(), Deadline::after(std::chrono::seconds(30)))));
}

TEST_F(SessionKeepTest, NoVmmWithoutASessionOutlivesWhatHoldsItsMemory) {
  const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
  const MemoryRecord record = record_with(UnservablePolicy::kWait);
  begin_handler(words_of_a_session(arrived_session(record, vmm.pidfd())));
  keep_.end_handler(Death::kOther);
  EXPECT_EQ(vmm.status(), std::nullopt);

  keep_.stop();

  EXPECT_TRUE(vmm.status().has_value());
}

TEST_F(SessionKeepTest, VmmWithoutASessionIsPassedOnAndNotWaitedFor) {
  const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
  const MemoryRecord record = record_with(UnservablePolicy::kWait);
  begin_handler(words_of_a_session(arrived_session(record, vmm.pidfd())));
  keep_.end_handler(Death::kOther);

  std::vector<NamedDescriptor> passed = keep_.pass_on();

  EXPECT_EQ(vmm.status(), std::nullopt);
  EXPECT_FALSE(keep_.is_needed());
  const auto next = make_successor();
  next->take_over(std::move(passed), OutageCause::kUpgrade);
  EXPECT_EQ(next->sessions(), 0u) << "it is over in the next supervisor, too";
  EXPECT_TRUE(next->is_needed());
  next->stop();
  EXPECT_FALSE(next->is_needed());
  EXPECT_TRUE(vmm.status().has_value());
  run();
}

TEST_F(SessionKeepTest, AnUpgradeForgetsNoProcessThatHangs) {
  const ChildProcess hanging = ChildProcess::start({"sleep", "1000"}, {}).value();
  const UniqueFd socket_file = create_event_fd().value();
  const uid_t user = file_owner(socket_file)->uid;
  const MemoryRecord record = record_with(UnservablePolicy::kKill);
  for (const uid_t hanging_for : {user + 1, user}) {
    std::vector<NamedDescriptor> passed;
    for (int i = 0; i < limits::kMostHangingDoors; ++i) {
      passed.push_back({leaving_door_name(hanging_for), duplicate(hanging.pidfd()).value()});
    }
    const auto before = make_successor();
    before->take_over(std::move(passed), OutageCause::kUpgrade);
    passed = before->pass_on();
    for (const auto& [role, file] : {std::pair(KeptRole::kListener, &socket_file),
                                     std::pair(KeptRole::kRecord, &record.file()),
                                     std::pair(KeptRole::kSocketFile, &socket_file)}) {
      passed.push_back({kept_name(7, role), duplicate(*file).value()});
    }
    doors_.clear();
    const auto next = make_successor();

    next->take_over(std::move(passed), OutageCause::kDeath);

    EXPECT_EQ(doors_.empty(), hanging_for == user);
    next->stop();
    run();
  }
}

TEST_F(SessionKeepTest, MemoryOfAnotherProcessIsHeldWhenItsVmmHasExited) {
  for (const KeptRole role : {KeptRole::kUserfaultfd, KeptRole::kOtherUserfaultfds}) {
    const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
    const MemoryRecord record = record_with(UnservablePolicy::kKill);
    KeptSession arrived = arrived_session(record, vmm.pidfd());
    arrived.drop(KeptRole::kArrival);
    const UniqueFd own = create_userfaultfd().value();
    arrived[role] = role == KeptRole::kUserfaultfd ? duplicate(own).value()
                                                   : hold_descriptors({&own, 1}).value();
    const auto keep = make_successor();
    std::vector<NamedDescriptor> kept;
    arrived.for_each([&](KeptRole each, const UniqueFd& descriptor) {
      kept.push_back({kept_name(7, each), duplicate(descriptor).value()});
    });
    keep->take_over(std::move(kept), OutageCause::kDeath);

    keep->stop();

    EXPECT_TRUE(vmm.status().has_value());
    EXPECT_TRUE(keep->is_needed());
    run();
  }
}

/// What the handler says that it works on when it dies.
KeepMessage in_hand(std::uint64_t session) { return {.kind = Kind::kInHand, .session = session}; }

TEST_F(SessionKeepTest, SessionThatEveryHandlerCrashesOnIsSetAside) {
  const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
  const MemoryRecord record = record_with(UnservablePolicy::kKill);
  std::vector<KeepMessage> words;
  words.push_back(
      {.kind = Kind::kKeep, .session = 7, .descriptors = arrived_session(record, vmm.pidfd())});
  begin_handler(std::move(words));
  keep_.end_handler(Death::kOther);
  const auto crash = [this](std::uint64_t session) {
    std::vector<KeepMessage> last;
    last.push_back(in_hand(session));
    begin_handler(std::move(last));
    keep_.end_handler(Death::kCrash);
  };

  for (unsigned i = 1; i < limits::kMostCrashes; ++i) crash(7);
  crash(0);  // not its doing
  EXPECT_EQ(vmm.status(), std::nullopt);
  crash(7);

  EXPECT_TRUE(succeeded(wait_for_exit(vmm.pidfd(), Deadline::after(std::chrono::seconds(30)))));
}

TEST_F(SessionKeepTest, DeathsFromOutsideSetNoSessionAside) {
  const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
  const MemoryRecord record = record_with(UnservablePolicy::kKill);
  std::vector<KeepMessage> words;
  words.push_back(
      {.kind = Kind::kKeep, .session = 7, .descriptors = arrived_session(record, vmm.pidfd())});
  words.push_back(in_hand(7));
  begin_handler(std::move(words));
  keep_.end_handler(Death::kOther);
  for (unsigned i = 0; i < 2 * limits::kMostCrashes; ++i) {
    std::vector<KeepMessage> last;
    last.push_back(in_hand(7));
    begin_handler(std::move(last));
    keep_.end_handler(Death::kOther);
  }

  EXPECT_EQ(vmm.status(), std::nullopt);
}

TEST_F(SessionKeepTest, LastWordsOfAHandlerThatHasNotHeardAllAreHeard) {
  begin_serving_handler();
  handlers_.back()->close();
  run();
  handlers_.clear();  // and what it was told lies unread in its socket

  EXPECT_TRUE(keep_.end_handler(Death::kOther));
}

/// A handler that has no memory for the sessions that it is to go on with.
class ShortOfMemory final : public SessionTable::Owner {
 public:
  void on_attached() override {}
  void on_faults(pid_t) override {}
  void on_window_end(Session&, std::vector<Touch>) override {}
  void on_ended() override {}
  Errands& errands() override { return errands_; }
  Result<SessionTable::Service> adopt(const MemoryRecord&, const KeptSession&) override {
    return fail(ErrorCode::kNoMemory, "mmap");
  }
  void on_serving(UniqueFd) override { served_ = true; }
  void on_alone() override { served_ = true; }
  bool served() const { return served_; }

 private:
  OwnErrands errands_;
  bool served_ = false;
};

TEST(SessionTable, LeavesWhatItCannotGoOnWithNowToAnotherHandler) {
  const auto loop = create_epoll_loop().value();
  const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
  const MemoryRecord record = record_with(UnservablePolicy::kKill);
  MessagePair ends = create_message_pair().value();
  ShortOfMemory owner;
  SessionTable table(*loop, std::move(ends.theirs), owner);
  bool lost = false;
  DescriptorReserve reserve;
  KeepChannel supervisor(
      *loop, std::move(ends.ours), reserve, [](const KeepMessage&) {},
      [&](KeepChannel::End) {
        lost = true;
        loop->stop();
      });
  supervisor.send(
      {.kind = Kind::kKept, .session = 7, .descriptors = arrived_session(record, vmm.pidfd())});
  supervisor.send({.kind = Kind::kAllKept, .value = 7});

  loop->run({.before = [] {}, .after = [] {}});

  EXPECT_TRUE(lost) << "which has the handler replaced";
  EXPECT_FALSE(owner.served());
  EXPECT_EQ(vmm.status(), std::nullopt);
}

}  // namespace
}  // namespace thaw::test
