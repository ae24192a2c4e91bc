// What a supervisor keeps, and what it hears of handlers that die at awkward moments: the real
// classes on real sockets, without processes.

#include "faulthandler/session_keep.h"

#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "base/socket.h"
#include "faulthandler/sys/epoll_loop.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Kind = KeepMessage::Kind;

class SessionKeepTest : public testing::Test, private SessionKeep::Owner {
 protected:
  ~SessionKeepTest() override {
    keep_.stop();
    for (auto& channel : handlers_) channel->close();
    run();
  }
  /// Starts a handler that says this before it has heard anything.
  void begin_handler(const std::vector<Kind>& words) {
    MessagePair ends = create_message_pair().value();
    ASSERT_TRUE(succeeded(keep_.begin_handler(std::move(ends.ours))));
    handlers_.push_back(std::make_unique<KeepChannel>(
        *loop_, std::move(ends.theirs), [](const KeepMessage&) {}, [] {}));
    for (const Kind kind : words) handlers_.back()->send({.kind = kind});
  }
  /// Lets all that is under way come to its end.
  void run() {
    loop_->stop();
    loop_->run({.before = [] {}, .after = [] {}});
  }

  std::unique_ptr<Loop> loop_ = create_epoll_loop().value();
  std::vector<std::unique_ptr<KeepChannel>> handlers_;
  unsigned served_ = 0;
  SessionKeep keep_{*loop_, create_message_pair().value().ours, *this};

 private:
  void keep(const std::string&, const UniqueFd&) override {}
  void forget(const std::string&) override {}
  void on_serving() override { ++served_; }
  void on_upgrade() override {}
};

TEST_F(SessionKeepTest, HandlersMayDieAsSoonAsTheyServe) {
  for (unsigned deaths = 1; deaths <= 3; ++deaths) {
    begin_handler({Kind::kServing});

    EXPECT_TRUE(keep_.end_handler());

    EXPECT_EQ(served_, deaths);
  }
}

TEST_F(SessionKeepTest, LastWordsOfAHandlerThatHasNotHeardAllAreHeard) {
  begin_handler({Kind::kServing});
  handlers_.back()->close();
  run();
  handlers_.clear();  // and what it was told lies unread in its socket

  EXPECT_TRUE(keep_.end_handler());
}

}  // namespace
}  // namespace thaw::test
