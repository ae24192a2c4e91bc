// Which page server is asked, and when a second one is.

#include "faulthandler/server_choice.h"

#include <gtest/gtest.h>

#include "faulthandler/handler_settings.h"
#include "faulthandler/server_names.h"
#include "faulthandler/server_places.h"
#include "faulthandler/settle_settings.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using namespace std::chrono_literals;

class ServerChoiceTest : public testing::Test {
 protected:
  std::optional<std::size_t> pick(const ServerSet& except = {}) {
    return choice_.pick(except, now_);
  }
  /// The server is there, and is lost without an answer.
  void fail(std::size_t server, unsigned times) {
    for (unsigned i = 0; i < times; ++i) {
      choice_.on_ready(server);
      choice_.on_lost(server, now_);
    }
    choice_.on_ready(server);
  }

  ServerChoice choice_{3};
  Clock::time_point now_ = Clock::now();
};

TEST_F(ServerChoiceTest, NobodyIsAskedBeforeAServerIsThere) {
  EXPECT_EQ(pick(), std::nullopt);
  choice_.on_ready(2);
  EXPECT_EQ(pick(), 2u);
  EXPECT_EQ(pick(ServerSet{0b100}), std::nullopt);
}

TEST_F(ServerChoiceTest, StaysWithAServerUntilItIsLost) {
  choice_.on_ready(1);
  EXPECT_EQ(pick(), 1u);
  choice_.on_ready(0);
  EXPECT_EQ(pick(), 1u);
  choice_.on_lost(1, now_);
  EXPECT_EQ(pick(), 0u);
  choice_.on_ready(1);
  EXPECT_EQ(pick(), 0u) << "going back would cost, and is of no use";
}

TEST_F(ServerChoiceTest, SparesAServerForOneRequestOnly) {
  choice_.on_ready(0);
  choice_.on_ready(1);
  EXPECT_EQ(pick(), 0u);
  EXPECT_EQ(pick(ServerSet{0b001}), 1u);
  EXPECT_EQ(pick(), 0u);
}

TEST_F(ServerChoiceTest, LeavesAServerThatFailsAgainAndAgainLongerEachTime) {
  choice_.on_ready(1);
  fail(0, limits::kMostServerFailures);
  EXPECT_TRUE(choice_.is_left(0, now_));
  EXPECT_EQ(pick(), 1u);
  now_ += limits::kServerPauseFirst;
  EXPECT_FALSE(choice_.is_left(0, now_));
  fail(0, limits::kMostServerFailures);
  now_ += limits::kServerPauseFirst;
  EXPECT_TRUE(choice_.is_left(0, now_));
  now_ += limits::kServerPauseFirst;
  EXPECT_FALSE(choice_.is_left(0, now_));
}

TEST_F(ServerChoiceTest, PausesAreBounded) {
  for (unsigned i = 0; i < 64; ++i) fail(0, limits::kMostServerFailures);
  EXPECT_TRUE(choice_.is_left(0, now_));
  EXPECT_FALSE(choice_.is_left(0, now_ + limits::kServerPauseMost));
}

TEST_F(ServerChoiceTest, ReplyEndsASeriesOfFailures) {
  fail(0, limits::kMostServerFailures - 1);
  choice_.on_reply(0, 1ms);
  fail(0, limits::kMostServerFailures - 1);
  EXPECT_FALSE(choice_.is_left(0, now_));
}

TEST_F(ServerChoiceTest, ServerThatIsAwayDoesNotFailAgain) {
  choice_.on_ready(0);
  for (unsigned i = 0; i < 2 * limits::kMostServerFailures; ++i) choice_.on_lost(0, now_);
  choice_.on_ready(0);
  EXPECT_FALSE(choice_.is_left(0, now_));
}

TEST_F(ServerChoiceTest, ServerThatWasLeftIsAskedWhereThereIsNoOther) {
  fail(0, limits::kMostServerFailures);
  EXPECT_EQ(pick(), 0u);
}

TEST_F(ServerChoiceTest, LeavesAServerThatIsOutpacedInARow) {
  choice_.on_ready(0);
  choice_.on_ready(1);
  for (unsigned i = 1; i < limits::kMostOutpaced; ++i) choice_.on_outpaced(0, now_);
  choice_.on_reply(0, 100us);  // it was quick, so that is no series
  for (unsigned i = 1; i < limits::kMostOutpaced; ++i) choice_.on_outpaced(0, now_);
  EXPECT_EQ(pick(), 0u);
  choice_.on_outpaced(0, now_);
  EXPECT_EQ(pick(), 1u);
}

TEST_F(ServerChoiceTest, HedgesAfterWhatNineteenOfTwentyRepliesTake) {
  EXPECT_EQ(choice_.hedge_after(0), limits::kHedgeUnknown);
  // One reply in fifty takes long, the others 10 to 20 ms.
  for (int i = 0; i < 5000; ++i) {
    choice_.on_reply(0, i % 50 == 0 ? 200ms : 10ms + (i % 11) * 1ms);
  }
  EXPECT_GT(choice_.hedge_after(0), 15ms);
  EXPECT_LT(choice_.hedge_after(0), 40ms);
  for (int i = 0; i < 5000; ++i) choice_.on_reply(0, 50us);
  EXPECT_EQ(choice_.hedge_after(0), limits::kHedgeFloor);
  for (int i = 0; i < 5000; ++i) choice_.on_reply(0, 10s);
  EXPECT_EQ(choice_.hedge_after(0), limits::kRequestDeadline);
}

TEST_F(ServerChoiceTest, HedgesATenthOfManyRequests) {
  unsigned hedges = 0;
  for (int i = 0; i < 10'000; ++i) {
    choice_.on_request();
    if (choice_.take_hedge()) ++hedges;
  }
  EXPECT_LE(hedges, 1000 + limits::kHedgeBurst);
  EXPECT_GE(hedges, 1000u);
}

ServerAddress server_at(const std::string& address) { return resolve_tcp(address).value(); }

std::vector<std::string> texts_of(const ServerPlaces& places) {
  std::vector<std::string> texts;
  for (const auto& place : places) texts.push_back(place ? place->text() : "");
  return texts;
}

using Texts = std::vector<std::string>;

TEST(ServerPlaces, ServerThatAnswersIsKeptWhateverItsNameStandsForNow) {
  const ServerPlaces before{server_at("127.0.0.1:1"), server_at("127.0.0.1:2")};

  const auto after = place_servers(before, {server_at("127.0.0.1:3")}, ServerSet{0b10});

  EXPECT_EQ(texts_of(after), (Texts{"127.0.0.1:3", "127.0.0.1:2"}));
}

TEST(ServerPlaces, OthersKeepTheirNumbers) {
  const ServerPlaces before{server_at("127.0.0.1:1"), server_at("127.0.0.1:2")};

  const auto after = place_servers(before, {server_at("127.0.0.1:2")}, {});

  EXPECT_EQ(texts_of(after), (Texts{"", "127.0.0.1:2"}));
}

TEST(ServerPlaces, NoMoreThanTheLimitArePlaced) {
  std::vector<ServerAddress> many;
  for (std::size_t i = 1; i <= limits::kMaxServers + 1; ++i) {
    many.push_back(server_at("127.0.0.1:" + std::to_string(i)));
  }

  EXPECT_EQ(place_servers({}, many, {}).size(), limits::kMaxServers);
}

TEST(HandlerSettings, AreReadBackAsTheyWere) {
  HandlerSettings settings;
  settings.servers = {"pages.example:1"};
  settings.resolved = {{"pages.example:1", {"127.0.0.1:1", "[::1]:1"}}};
  settings.pem = {.certificate = "a", .key = "b", .authority = "c"};
  settings.control = "/run/\xff.sock";  // a file name is no text
  settings.command = {"/usr/bin/thaw-faulthandler", "--verbose"};

  const auto read = read_settings(keep_settings(settings).value()).value();

  EXPECT_EQ(read.servers, settings.servers);
  EXPECT_EQ(read.resolved, settings.resolved);
  EXPECT_EQ(read.pem, settings.pem);
  EXPECT_EQ(read.control, settings.control);
  EXPECT_EQ(read.command, settings.command);
}

/// ".invalid" has no addresses, and never will (RFC 2606).
constexpr const char* kNoName = "pages.invalid:7433";

TEST(ServerNames, NameThatDoesNotResolveKeepsItsAddresses) {
  const std::vector<NamedServer> known{{kNoName, {"127.0.0.1:9"}}};

  EXPECT_EQ(resolve_names({kNoName}, known, {}).value(), known);
  EXPECT_EQ(recall_names({kNoName}, known), known);
  EXPECT_EQ(resolve_names({kNoName}, {}, {}).value().front().addresses, Texts());
}

TEST(ServerNames, NumbersNeedNoNameServer) {
  EXPECT_EQ(recall_names({"127.0.0.1:9"}, {}).front().addresses, Texts{"127.0.0.1:9"});
  EXPECT_TRUE(is_numeric("[::1]:9"));
  EXPECT_FALSE(is_numeric("localhost:9"));
}

TEST(HandlerSettings, MetricsAreForThisHostUnlessTheyAreMadePublic) {
  HandlerSettings given;
  given.servers = {"127.0.0.1:9"};
  given.transport.insecure = true;
  given.http = "0.0.0.0:0";
  EXPECT_TRUE(settle(given, nullptr, SettingsUse::kFirstStart).has_value());

  given.servers = {"unix:/run/thaw/s.sock"};
  given.transport.insecure = false;
  const auto refused = settle(given, nullptr, SettingsUse::kFirstStart);
  ASSERT_EQ(code_of(refused), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(refused.error().context().contains("--http-public")) << refused.error().context();
  given.http_public = true;
  EXPECT_TRUE(settle(given, nullptr, SettingsUse::kFirstStart).has_value());
  given.servers = {"127.0.0.1:9"};
  EXPECT_EQ(code_of(settle(given, nullptr, SettingsUse::kFirstStart)), ErrorCode::kInvalidArgument)
      << "it allows no plain page server";
}

TEST(HandlerSettings, ProofFailsOfNamesThatNeverResolved) {
  HandlerSettings given;
  given.servers = {kNoName};
  HandlerSettings before = given;

  const auto unknown = settle(given, &before, SettingsUse::kProof);
  before.resolved = {{kNoName, {"127.0.0.1:9"}}};

  EXPECT_EQ(code_of(unknown), ErrorCode::kUnavailable);
  EXPECT_EQ(settle(given, &before, SettingsUse::kProof).value().resolved, before.resolved);
  EXPECT_TRUE(settle(given, nullptr, SettingsUse::kFirstStart).has_value());
}

}  // namespace
}  // namespace thaw::test
