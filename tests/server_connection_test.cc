// A connection of the fault handler over TLS whose user keeps what it has received.

#include "faulthandler/server_connection.h"

#include <algorithm>
#include <deque>
#include <thread>

#include <gtest/gtest.h>

#include "base/check.h"
#include "faulthandler/sys/create_loop.h"
#include "tests/support/authority.h"
#include "tests/support/loopback.h"
#include "tests/support/programs.h"
#include "tests/support/store_of.h"

namespace thaw::test {
namespace {

constexpr std::size_t kReplies = 300;
constexpr std::size_t kReplyBytes = 3000;
constexpr std::size_t kBufferBytes = 8192;

Bytes body_of(std::uint64_t id) { return Bytes(kReplyBytes, static_cast<std::byte>(id)); }

/// A server without any rules: a handshake, a welcome, and all replies in one burst.
void serve_burst(const TcpListener& listener, TlsContext& context) {
  const Deadline deadline = Deadline::after(kPatience);
  UniqueFd socket = accept_connection(listener.socket, deadline).value();
  TlsSession session = context.begin().value();
  while (!session.shake_hands().value()) {
    CHECK(send_all(socket, session.outbox(), deadline).has_value());
    session.outbox().clear();
    session.received(receive_some(socket, session.inbox(), deadline).value());
  }
  CHECK(send_all(socket, session.outbox(), deadline).has_value());
  session.outbox().clear();
  Stream stream(std::move(socket), std::move(session));
  Bytes hello(kWireHeadBytes);
  CHECK(stream.receive_all(hello, deadline).has_value());

  Bytes burst;
  encode_message(message::Welcome{.store = store_of(1)}, 0, 0, burst);
  for (std::uint64_t id = 1; id <= kReplies; ++id) {
    Bytes head;
    encode_message(message::Chunks{1}, id, kReplyBytes, head);
    const Bytes body = body_of(id);
    burst.insert(burst.end(), head.begin(), head.end());
    burst.insert(burst.end(), body.begin(), body.end());
  }
  const ByteSpan piece = burst;
  CHECK(stream.send(std::span(&piece, 1), deadline).has_value());
  Bytes rest(4096);
  while (stream.receive_some(rest, deadline).value_or(0) > 0) {
  }
}

/// Keeps the buffer of each reply for some turns of the loop, and looks at it again then.
class Keeper final : private ServerConnection::User {
 public:
  Keeper(Loop& loop, const ServerAddress& server)
      : loop_(loop),
        connection_(loop, Origin{.store = store_of(1), .name_space = "default"},
                    {.server = server,
                     .role = message::Role::kPrefetch,
                     .send_bytes = 0,
                     .most_reply_bytes = kBufferBytes,
                     .buffers = 2,
                     .buffer_bytes = kBufferBytes},
                    *this) {}

  void run() {
    connection_.open();
    loop_.run({.before = [] {}, .after = [this] { after_turn(); }});
  }

  std::size_t taken = 0;
  std::size_t wrong = 0;
  std::size_t turns_without_room = 0;

 private:
  struct Kept {
    std::uint64_t id;
    ByteSpan body;
    std::size_t buffer;
  };

  void on_ready() override {}
  void on_wrong_store(const Error&) override {}
  Result<void> on_reply(Envelope reply, ByteSpan body) override {
    if (reply.request_id != taken + kept_.size() + 1) ++wrong;
    kept_.push_back({reply.request_id, body, connection_.keep_buffer()});
    return {};
  }
  void on_replies_end() override { let_go_soon(); }
  void on_lost() override {}
  bool needs_connection() const override { return taken < kReplies; }
  std::size_t outstanding() const override { return kReplies - taken; }
  bool overdue(Clock::time_point) const override { return false; }

  void let_go_soon() {
    if (!kept_.empty() && !timer_.active()) loop_.wait(std::chrono::microseconds(200), timer_);
  }
  void let_go_one() {
    const Kept kept = kept_.front();
    kept_.pop_front();
    if (!std::ranges::equal(kept.body, body_of(kept.id))) ++wrong;
    ++taken;
    turns_without_room += kept_.size() > 2 ? 1 : 0;
    connection_.let_go(kept.buffer);
    let_go_soon();
  }
  void after_turn() {
    if (taken == kReplies && !closed_) {
      closed_ = true;
      connection_.close();
    }
    if (closed_ && connection_.idle()) loop_.stop();
  }

  Loop& loop_;
  std::deque<Kept> kept_;
  bool closed_ = false;
  Operation timer_{[this](int) { let_go_one(); }};
  ServerConnection connection_;
};

TEST(KeptReplies, WhatWaitsForRoomBehindTlsComesWhenThereIsSome) {
  const Authority authority;
  const auto servers = authority.context(TlsContext::Side::kServer, "server");
  const auto clients = authority.context(TlsContext::Side::kClient, "client");
  const TcpListener listener;
  std::jthread server([&] { serve_burst(listener, *servers); });
  const auto loop = create_loop().value();
  Keeper keeper(*loop, {listener.address, "127.0.0.1", clients});

  keeper.run();

  EXPECT_EQ(keeper.taken, kReplies);
  EXPECT_EQ(keeper.wrong, 0u);
  EXPECT_GT(keeper.turns_without_room, 0u);
}

}  // namespace
}  // namespace thaw::test
