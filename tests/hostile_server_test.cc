// A page server that lies in its replies, stalls, trickles and resets, in front of the real fault
// handler: no page of a guest is ever wrong, and who is served by an honest one never notices.

#include <array>
#include <atomic>
#include <csignal>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "format/limits.h"
#include "tests/support/lying_relay.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

using Lie = LyingRelay::Lie;

/// A kind of lie about a reply with pages.
struct Kind {
  const char* name;
  Lie (*tell)(const Envelope& reply, Bytes body);
};

Lie with_head(const Envelope& reply, const Bytes& body, std::size_t at, std::uint32_t value) {
  Lie lie = LyingRelay::truth(reply, body);
  store_le(lie.bytes.data() + at, value);
  return lie;
}
Lie with_message(const Envelope& reply, Message message, const Bytes& body) {
  return LyingRelay::truth({reply.request_id, std::move(message)}, body);
}
Lie with_count(const Envelope& reply, const Bytes& body, std::int64_t more) {
  const auto* const chunks = std::get_if<message::Chunks>(&reply.message);
  if (chunks == nullptr) return LyingRelay::truth(reply, body);
  return with_message(reply, message::Chunks{static_cast<std::uint32_t>(chunks->count + more)},
                      body);
}
Lie then(Lie lie, Lie::Then then) {
  lie.then = then;
  return lie;
}

constexpr std::array kKinds{
    Kind{"other request",
         [](const Envelope& reply, Bytes body) {
           return LyingRelay::truth({reply.request_id + 1, reply.message}, body);
         }},
    Kind{"no request", [](const Envelope& reply,
                          Bytes body) { return LyingRelay::truth({0, reply.message}, body); }},
    Kind{"twice",
         [](const Envelope& reply, Bytes body) {
           Lie lie = LyingRelay::truth(reply, body);
           const Bytes once = lie.bytes;
           lie.bytes.insert(lie.bytes.end(), once.begin(), once.end());
           return lie;
         }},
    Kind{"other message",
         [](const Envelope& reply, Bytes body) {
           return with_message(reply, message::PageMapSegment{}, body);
         }},
    Kind{"a request", [](const Envelope& reply,
                         Bytes) { return with_message(reply, message::ListSnapshots{}, {}); }},
    Kind{"more", [](const Envelope& reply, Bytes body) { return with_count(reply, body, 1); }},
    Kind{"fewer", [](const Envelope& reply, Bytes body) { return with_count(reply, body, -1); }},
    Kind{"countless",
         [](const Envelope& reply, Bytes body) { return with_count(reply, body, 0x7fff'ffff); }},
    Kind{"nothing", [](const Envelope& reply, Bytes) { return LyingRelay::truth(reply, {}); }},
    Kind{"cut",
         [](const Envelope& reply, Bytes body) {
           if (!body.empty()) body.pop_back();
           return LyingRelay::truth(reply, body);
         }},
    Kind{"longer",
         [](const Envelope& reply, Bytes body) {
           body.push_back(std::byte{1});
           return LyingRelay::truth(reply, body);
         }},
    Kind{"damaged",
         [](const Envelope& reply, Bytes body) {
           if (!body.empty()) body.back() ^= std::byte{1};
           return LyingRelay::truth(reply, body);
         }},
    Kind{"damaged head",
         [](const Envelope& reply, Bytes body) {
           if (!body.empty()) body.front() ^= std::byte{0xff};
           return LyingRelay::truth(reply, body);
         }},
    Kind{"zeros", [](const Envelope& reply,
                     Bytes body) { return LyingRelay::truth(reply, Bytes(body.size())); }},
    Kind{"not found",
         [](const Envelope& reply, Bytes) {
           return with_message(reply, message::ErrorReply{ErrorCode::kNotFound, "a lie"}, {});
         }},
    Kind{"an error of no kind",
         [](const Envelope& reply, Bytes) {
           return with_message(reply, message::ErrorReply{static_cast<ErrorCode>(9999), "a lie"},
                               {});
         }},
    Kind{"other magic",
         [](const Envelope& reply, Bytes body) { return with_head(reply, body, 0, 7); }},
    Kind{"large header",
         [](const Envelope& reply, Bytes body) {
           return with_head(reply, body, 4, limits::kMaxHeaderBytes);
         }},
    Kind{"large body", [](const Envelope& reply,
                          Bytes body) { return with_head(reply, body, 8, limits::kMaxBodyBytes); }},
    Kind{"endless body",
         [](const Envelope& reply, Bytes body) { return with_head(reply, body, 8, ~0u); }},
    Kind{"garbage", [](const Envelope& reply,
                       Bytes body) { return with_head(reply, body, kWireHeadBytes, 0x00ff'ffff); }},
    Kind{"reset",
         [](const Envelope& reply, Bytes body) {
           Lie lie = then(LyingRelay::truth(reply, body), Lie::Then::kHangUp);
           lie.bytes.resize(lie.bytes.size() / 2);
           return lie;
         }},
};

/// Namespaces and what the relay does to them.
constexpr const char* kLiedTo = "lied-to";
constexpr const char* kStalled = "stalled";
constexpr const char* kTrickled = "trickled";
constexpr int kLiesOfAKind = 2;

class HostileServerTest : public RestoreTest {
 protected:
  HostileServerTest() {
    for (const std::string name_space : {kLiedTo, kStalled, kTrickled}) {
      const Outcome pushed =
          server_.thaw({"--namespace", name_space, "push", "snapshot", "--memory", path("image")});
      EXPECT_EQ(pushed.exit_code, 0) << pushed.output;
    }
    start_handler(relay_.address());
  }

  Lie tell(const LyingRelay::Peer& peer, const Envelope& reply, const Bytes& body) {
    const bool pages = std::holds_alternative<message::Chunks>(reply.message) ||
                       std::holds_alternative<message::PackReply>(reply.message);
    const Lie truth = LyingRelay::truth(reply, body);
    if (!pages || peer.role == message::Role::kControl || lies_left_.fetch_sub(1) <= 0) {
      return truth;
    }
    if (peer.name_space == kStalled) return then(truth_cut(truth), Lie::Then::kStall);
    if (peer.name_space == kTrickled) return then(truth, Lie::Then::kTrickle);
    return peer.name_space == kLiedTo ? kKinds[kind_].tell(reply, body) : truth;
  }
  static Lie truth_cut(Lie truth) {
    truth.bytes.resize(truth.bytes.size() - 1);
    return truth;
  }
  std::uint64_t prepare_in(const std::string& name_space, const std::string& socket,
                           std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"--namespace", name_space});
    return prepare(more, socket);
  }
  /// The next restores have a working set.
  void record(const std::string& name_space) {
    const std::uint64_t number = prepare_in(name_space, "record");
    EXPECT_EQ(start_vmm("verify", "image", "record").wait().value(), 0);
    wait_for(number, [](const Json& report) { return report["recording"] == "stored"; });
  }

  std::atomic<int> lies_left_ = 0;
  std::atomic<std::size_t> kind_ = 0;
  LyingRelay relay_{server_.address(),
                    [this](const auto& peer, const auto& reply, const auto& body) {
                      return tell(peer, reply, body);
                    }};
};

INSTANTIATE_TEST_SUITE_P(Loops, HostileServerTest, both_loops(), loop_name);

TEST_P(HostileServerTest, NoLieEntersAGuestAndOthersAreServed) {
  record(kLiedTo);
  std::uint64_t damaged = 0;
  for (kind_ = 0; kind_ < kKinds.size(); ++kind_) {
    lies_left_ = kLiesOfAKind;
    const std::uint64_t number = prepare_in(kLiedTo, "vm", {"--on-unservable", "wait"});
    Program lied_to = start_vmm("verify");
    EXPECT_EQ(lied_to.wait().value(), 0) << kKinds[kind_].name << lied_to.rest_of_output();
    EXPECT_LE(lies_left_, 0) << kKinds[kind_].name << " was not told";
    damaged += wait_for_state(number, "ended")["damaged_chunks"].get<std::uint64_t>();
  }
  EXPECT_GT(damaged, 0u);
}

TEST_P(HostileServerTest, ServerThatLiesWithoutEndStopsTheVmOrKeepsItWaiting) {
  prepare();
  Program honest = start_vmm("halves");
  ASSERT_TRUE(succeeded(honest.wait_for_line("half")));
  for (kind_ = 0; kind_ < kKinds.size(); ++kind_) {
    lies_left_ = 1 << 30;
    const std::uint64_t number = prepare_in(kLiedTo, "lie");
    Program lied_to = start_vmm("verify", "image", "lie");
    // It waits for its pages, or was killed for want of them.
    wait_for(number, [](const Json& report) {
      return report["state"] == "ended" || report["waiting_pages"] > 0;
    });
    lied_to.signal(SIGKILL);
    // Where the truth comes before the lie it may have been through with its check, and found
    // nothing.
    const int status = lied_to.wait().value();
    EXPECT_TRUE(status == 0 || status == 128 + SIGKILL) << kKinds[kind_].name << ": " << status;
    EXPECT_EQ(lied_to.rest_of_output(), "") << kKinds[kind_].name;
    wait_for_state(number, "ended");
  }
  lies_left_ = 0;
  honest.tell("go on");
  EXPECT_EQ(honest.wait().value(), 0);
}

TEST_P(HostileServerTest, ServerThatStallsOrTricklesIsLeftAndAskedAnew) {
  prepare_in(kStalled, "stalled", {"--no-prefetch", "--no-record"});
  prepare_in(kTrickled, "trickled", {"--no-prefetch", "--no-record"});
  prepare({}, "honest");
  lies_left_ = kLiesOfAKind;
  Program stalled = start_vmm("verify", "image", "stalled");
  Program trickled = start_vmm("verify", "image", "trickled");
  EXPECT_EQ(start_vmm("verify", "image", "honest").wait().value(), 0);
  EXPECT_EQ(stalled.wait().value(), 0) << stalled.rest_of_output();
  EXPECT_EQ(trickled.wait().value(), 0) << trickled.rest_of_output();
  EXPECT_LE(lies_left_, 0);
}

}  // namespace
}  // namespace thaw::test
