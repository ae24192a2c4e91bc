// How a command finds a page server that does what it asks.

#include "cli/server_list.h"

#include <atomic>

#include <gtest/gtest.h>

#include "cli/limits.h"
#include "format/listing.h"
#include "tests/support/loopback.h"
#include "tests/support/programs.h"
#include "tests/support/store_of.h"
#include "tests/support/test_support.h"
#include "tests/support/wire_message.h"

namespace thaw::test {
namespace {

/// A page server that greets, and answers all requests alike.
class OnePageServer {
 public:
  explicit OnePageServer(Message answer)
      : answer_(std::move(answer)), server_([this](UniqueFd client) { serve(client); }) {}

  const std::string& address() const { return server_.address(); }
  /// Of connections.
  int count() const { return count_; }

 private:
  void serve(const UniqueFd& client) {
    ++count_;
    while (auto received = receive_message(client, Deadline::after(kPatience))) {
      const Envelope& asked = received->envelope;
      const bool hello = std::holds_alternative<message::Hello>(asked.message);
      Bytes reply;
      encode_message(hello ? message::Welcome{.store = store_of(1)} : answer_, asked.request_id, 0,
                     reply);
      if (!send_all(client, reply, Deadline::after(kPatience))) return;
    }
  }

  const Message answer_;
  std::atomic<int> count_ = 0;
  LoopbackServer server_;
};

/// An address at which nothing listens.
std::string closed_address() { return TcpListener().address.text(); }

Message refusal(ErrorCode code) { return message::ErrorReply{code, "refused"}; }

ServerList list_of(std::vector<std::string> names) {
  return ServerList::create(std::move(names), {.insecure = true}, "default").value();
}

Result<message::Statistics> statistics_of(ServerList& servers) {
  return servers.ask([](PageClient& client) { return client.statistics(); });
}

/// No name has a label of so many characters, so no name server is asked.
const std::string kUnresolved = std::string(70, 'x') + ":7433";

const Message kAnswer = message::Statistics{.snapshots = 7};

TEST(ServerList, TheFirstThatAnswersIsAskedAndIsTheFirstNextTime) {
  OnePageServer other(refusal(ErrorCode::kUnsupported));
  OnePageServer good(kAnswer);
  ServerList servers = list_of({closed_address(), other.address(), good.address()});

  EXPECT_EQ(statistics_of(servers)->snapshots, 7u);
  EXPECT_EQ(statistics_of(servers)->snapshots, 7u);

  EXPECT_EQ(other.count(), 1);
  EXPECT_EQ(good.count(), 2);
}

TEST(ServerList, OneThatSaysNothingIsPassedOver) {
  const TcpListener silent;  // the kernel takes the connection, and nothing answers
  OnePageServer good(kAnswer);
  ServerList servers = list_of({silent.address.text(), good.address()});

  EXPECT_EQ(statistics_of(servers)->snapshots, 7u);
}

TEST(ServerList, AnswerThatIsTheSameEverywhereEndsTheRound) {
  OnePageServer full(refusal(ErrorCode::kQuotaExceeded));
  OnePageServer other(kAnswer);
  ServerList servers = list_of({full.address(), other.address()});

  EXPECT_EQ(code_of(statistics_of(servers)), ErrorCode::kQuotaExceeded);
  EXPECT_EQ(other.count(), 0);
}

TEST(ServerList, ErrorIsOfTheServerThatTellsMostAndNamesAll) {
  OnePageServer replica(refusal(ErrorCode::kUnsupported));
  OnePageServer owner(refusal(ErrorCode::kNotFound));
  const std::string closed = closed_address();
  ServerList all = list_of({closed, replica.address(), owner.address()});
  ServerList without_owner = list_of({replica.address(), closed});
  ServerList alone = list_of({replica.address()});

  const auto asked = statistics_of(all);
  EXPECT_EQ(code_of(asked), ErrorCode::kNotFound);
  for (const std::string& address : {closed, replica.address(), owner.address()}) {
    EXPECT_NE(asked.error().context().find(address), std::string::npos) << asked.error().message();
  }
  EXPECT_EQ(code_of(statistics_of(without_owner)), ErrorCode::kUnavailable);
  EXPECT_EQ(code_of(statistics_of(alone)), ErrorCode::kUnsupported);
}

TEST(ServerList, NamesThatDoNotResolveAreNoObstacle) {
  OnePageServer good(kAnswer);
  ServerList servers = list_of({kUnresolved, good.address()});
  EXPECT_EQ(statistics_of(servers)->snapshots, 7u);
  ServerList none = list_of({kUnresolved});
  EXPECT_EQ(code_of(statistics_of(none)), ErrorCode::kUnavailable);
}

TEST(ServerList, TextThatIsNoAddressIsRefusedBeforeAnyIsAsked) {
  for (const char* const text :
       {"", "host", ":7433", "host:", "host:port", "host:65536", "host:+1"}) {
    EXPECT_EQ(code_of(ServerList::create({"127.0.0.1:1", text}, {.insecure = true}, "default")),
              ErrorCode::kInvalidArgument)
        << text;
  }
  EXPECT_EQ(code_of(ServerList::create({}, {}, "default")), ErrorCode::kInvalidArgument);
}

TEST(ServerList, NoMoreThanTheLimitAreAsked) {
  OnePageServer good(kAnswer);
  std::vector<std::string> names(limits::kMaxServersAsked);
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = fmt::format("127.0.0.{}:1", i + 1);
  names.push_back(good.address());
  ServerList servers = list_of(names);
  EXPECT_EQ(code_of(statistics_of(servers)), ErrorCode::kUnavailable);
  EXPECT_EQ(good.count(), 0);
}

TEST(Listing, NamesAscendAndThereIsABound) {
  Listing listing;
  EXPECT_TRUE(succeeded(listing.add("b", 100)));
  EXPECT_TRUE(listing.goes_on(true).value());
  EXPECT_EQ(listing.last(), "b");
  EXPECT_EQ(code_of(listing.add("a", 100)), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(listing.add("b", 100)), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(listing.goes_on(true)), ErrorCode::kProtocol) << "nothing in it";
  EXPECT_FALSE(listing.goes_on(false).value());
  EXPECT_EQ(code_of(listing.add("c", Listing::kMaxBytes)), ErrorCode::kTooLarge);
}

TEST(Listing, OfAServerThatAlwaysHasMoreEnds) {
  const OnePageServer server(message::Tags{.tags = {{"app:new", "a"}}, .more = true});
  ServerList servers = list_of({server.address()});
  EXPECT_EQ(code_of(servers.ask([](PageClient& client) { return client.tags(); })),
            ErrorCode::kProtocol);
}

}  // namespace
}  // namespace thaw::test
