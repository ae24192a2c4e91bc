// A client that lies, stalls, floods and resets, against the real page server: every request is
// answered by name or its connection ended, memory and descriptors stay bounded, and who is beside
// it never notices.

#include <array>
#include <utility>

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/socket.h"
#include "format/limits.h"
#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"
#include "tests/support/wire_message.h"

namespace thaw::test {
namespace {

const std::size_t kTolerableGrowth = (64u << 20) + kSanitizerBytes;

constexpr std::array kRoles{message::Role::kControl, message::Role::kDemand,
                            message::Role::kPrefetch};

class HostileClientTest : public testing::Test {
 protected:
  HostileClientTest() {
    write_file(directory_.path("image"), make_image(1, 200));
    EXPECT_EQ(push("a").exit_code, 0);
    witness_.emplace(server_.address(), message::Role::kDemand);
    EXPECT_TRUE(succeeded(witness_->pin({1})));
    descriptors_ = open_descriptors(server_.pid()).size();
    memory_ = resident_bytes(server_.pid());
  }

  Outcome push(const std::string& name) {
    return server_.thaw({"push", name, "--memory", directory_.path("image")});
  }
  UniqueFd connect() {
    return connect_tcp(*resolve_tcp(server_.address()), Deadline::after(kPatience)).value();
  }
  /// Who was there before is served, who comes now is, and nothing is left of the others.
  void expect_unharmed() {
    const auto reply = witness_->ask(message::Unpin{{2}});
    EXPECT_TRUE(std::holds_alternative<message::Done>(reply.message));
    EXPECT_EQ(push("b").exit_code, 0);
    EXPECT_LE(open_descriptors_down_to(server_.pid(), descriptors_), descriptors_);
    EXPECT_LT(resident_bytes(server_.pid()), memory_ + kTolerableGrowth);
  }

  ScratchDirectory directory_;
  PageServer server_{directory_.path("store")};
  std::optional<PageConnection> witness_;
  std::size_t descriptors_ = 0;
  std::size_t memory_ = 0;
};

/// One message of each kind, with nothing in it.
std::vector<Message> one_of_each() {
  std::vector<Message> all;
  [&]<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
    (all.emplace_back(std::variant_alternative_t<kIndex, Message>()), ...);
  }(std::make_index_sequence<std::variant_size_v<Message>>());
  std::get<message::BeginPush>(all[1]).spec.name = "hostile";
  return all;
}

/// Sends bytes on a connection that was greeted, and takes a reply or the end of it.
void expect_answer(const PageConnection& peer, ByteSpan bytes) {
  const Deadline deadline = Deadline::after(kPatience);
  if (!send_all(peer.socket(), bytes, deadline)) return;
  std::array<std::byte, kWireHeadBytes> head;
  const auto received = receive_all(peer.socket(), head, deadline);
  if (received) {
    EXPECT_TRUE(succeeded(decode_wire_head(head)));
  } else {
    EXPECT_NE(received.error().code(), ErrorCode::kTimeout);
  }
}

TEST_F(HostileClientTest, LiesInAnyWordOfAnyMessageAreAnsweredOrEndIt) {
  constexpr std::array<std::uint64_t, 3> kLies{~0ull, 0x7fff'ffff, 1ull << 32};
  for (const message::Role role : kRoles) {
    for (const Message& message : one_of_each()) {
      Bytes truth;
      encode_message(message, 1, 0, truth);
      for (std::size_t at = kWireHeadBytes; at < truth.size(); at += 8) {
        for (const std::uint64_t lie : kLies) {
          Bytes bytes = truth;
          store_le(bytes.data() + at, lie);
          expect_answer(PageConnection(server_.address(), role), bytes);
        }
      }
    }
  }
  expect_unharmed();
}

TEST_F(HostileClientTest, LiesInTheHeadEndTheConnectionByName) {
  Bytes truth;
  encode_message(message::ListSnapshots{}, 1, 0, truth);
  const auto with = [&](std::size_t at, std::uint32_t value) {
    Bytes bytes = truth;
    store_le(bytes.data() + at, value);
    return bytes;
  };
  const std::array lies{std::pair{with(0, 0), ErrorCode::kBadMagic},
                        std::pair{with(4, 0), ErrorCode::kMalformed},
                        std::pair{with(4, 12), ErrorCode::kMalformed},
                        std::pair{with(4, 0xffff'fff8), ErrorCode::kTooLarge},
                        std::pair{with(8, 0xffff'ffff), ErrorCode::kTooLarge},
                        std::pair{with(12, 1), ErrorCode::kMalformed}};
  for (const message::Role role : kRoles) {
    for (const auto& [bytes, code] : lies) {
      PageConnection peer(server_.address(), role);
      ASSERT_TRUE(succeeded(send_all(peer.socket(), bytes, Deadline::after(kPatience))));
      EXPECT_EQ(peer.receive_error(), code);
      peer.expect_closed();
    }
  }
  expect_unharmed();
}

TEST_F(HostileClientTest, GreetingIsSmallOrNone) {
  Bytes large;
  encode_message(message::Hello{.name_space = std::string(8000, 'x')}, 1, 0, large);
  Bytes with_body;
  encode_message(message::Hello{.name_space = "default"}, 1, 1000, with_body);
  with_body.resize(with_body.size() + 1000);
  for (const Bytes& bytes : {large, with_body}) {
    const UniqueFd socket = connect();
    const Deadline deadline = Deadline::after(kPatience);
    ASSERT_TRUE(succeeded(send_all(socket, bytes, deadline)));
    const auto reply = receive_message(socket, deadline);
    ASSERT_TRUE(succeeded(reply));
    EXPECT_EQ(std::get<message::ErrorReply>(reply->envelope.message).code, ErrorCode::kTooLarge);
  }
  expect_unharmed();
}

TEST_F(HostileClientTest, MessagesThatAreOnlyAnnouncedTakeNoMemory) {
  std::vector<PageConnection> stalled;
  Bytes announced;
  encode_message(message::Upload{1}, 1, limits::kMaxBodyBytes, announced);
  announced.resize(announced.size() + 100);
  for (int i = 0; i < 200; ++i) {
    stalled.emplace_back(server_.address(), message::Role::kControl);
    ASSERT_TRUE(
        succeeded(send_all(stalled.back().socket(), announced, Deadline::after(kPatience))));
  }
  EXPECT_EQ(push("while-they-stall").exit_code, 0);
  EXPECT_LT(resident_bytes(server_.pid()), memory_ + kTolerableGrowth);
  stalled.clear();
  expect_unharmed();
}

TEST_F(HostileClientTest, WhoTakesNoRepliesIsGivenNoMemory) {
  Bytes flood;
  for (int i = 0; i < 1000; ++i) encode_message(message::ListSnapshots{}, 1, 0, flood);
  std::vector<PageConnection> peers;
  for (int i = 0; i < 20; ++i) {
    peers.emplace_back(server_.address(), kRoles[static_cast<std::size_t>(i) % kRoles.size()]);
    // Until neither side's buffers take any more.
    while (send_at_once(peers.back().socket(), flood) > 0) continue;
  }
  EXPECT_EQ(push("beside-the-flood").exit_code, 0);
  EXPECT_LT(resident_bytes(server_.pid()), memory_ + kTolerableGrowth);
  peers.clear();
  expect_unharmed();
}

TEST_F(HostileClientTest, ResetsAtAnyByteLeaveNothingBehind) {
  Bytes bytes;
  encode_message(message::Hello{.name_space = "default"}, 1, 0, bytes);
  encode_message(message::BeginPush{{.name = "hostile",
                                     .memory = {kPageBytes},
                                     .state = {},
                                     .regions = {},
                                     .labels = {},
                                     .cpu_vendor = {}},
                                    {}},
                 2, 0, bytes);
  encode_message(message::GetStatistics{}, 3, 0, bytes);
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    const UniqueFd socket = connect();
    ASSERT_TRUE(
        succeeded(send_all(socket, ByteSpan(bytes).first(cut), Deadline::after(kPatience))));
    const linger reset{.l_onoff = 1, .l_linger = 0};
    ASSERT_EQ(::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
  }
  expect_unharmed();
}

}  // namespace
}  // namespace thaw::test
