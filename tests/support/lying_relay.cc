#include "tests/support/lying_relay.h"

#include <array>

#include <poll.h>
#include <sys/socket.h>

#include "base/event_fd.h"
#include "base/socket.h"
#include "tests/support/programs.h"

namespace thaw::test {

namespace {

/// How soon a thread that waits for bytes sees that the relay is destroyed.
constexpr std::chrono::milliseconds kStopInterval{50};
/// Between two bytes of what trickles.
constexpr int kTrickleMs = 20;

}  // namespace

LyingRelay::LyingRelay(std::string server, Tell tell)
    : server_(std::move(server)),
      tell_(std::move(tell)),
      clients_([this](UniqueFd client) { connect(std::move(client)); }) {}

LyingRelay::Lie LyingRelay::truth(const Envelope& reply, const Bytes& body) {
  Lie truth;
  encode_message(reply.message, reply.request_id, body.size(), truth.bytes);
  truth.bytes.insert(truth.bytes.end(), body.begin(), body.end());
  return truth;
}

void LyingRelay::connect(UniqueFd client) {
  const auto server = connect_tcp(*resolve_tcp(server_), Deadline::after(kPatience));
  if (!server) return;
  const auto hello = receive(client);
  if (!hello || !send_all(*server, hello->head, Deadline::after(kPatience))) return;
  const auto welcome = receive(*server);
  if (!welcome || !send_all(client, welcome->head, Deadline::after(kPatience))) return;
  const auto& greeting = std::get<message::Hello>(hello->envelope.message);
  const std::jthread requests([&] { pass_requests(client, *server); });
  // However it ends, both ends learn of it.
  static_cast<void>(pass_replies({greeting.role, greeting.name_space}, *server, client));
  shut_down(client);
  shut_down(*server);
}

void LyingRelay::pass_requests(const UniqueFd& client, const UniqueFd& server) {
  std::array<std::byte, 8192> piece;
  while (!clients_.stopping()) {
    const auto n = receive_some(client, piece, Deadline::after(kStopInterval));
    if (!n && n.error().code() == ErrorCode::kTimeout) continue;
    if (!n || *n == 0) break;
    if (!send_all(server, ByteSpan(piece).first(*n), Deadline::after(kPatience))) break;
  }
  shut_down(server);
}

Result<WireMessage> LyingRelay::receive(const UniqueFd& from) const {
  while (!wait_until_readable(from, Deadline::after(kStopInterval))) {
    if (clients_.stopping()) return fail(ErrorCode::kStopped, "the test is over");
  }
  return receive_message(from, Deadline::after(kPatience));
}

Result<void> LyingRelay::pass_replies(const Peer& peer, const UniqueFd& server,
                                      const UniqueFd& client) {
  while (true) {
    const WireMessage reply = TRY(receive(server));
    TRY(tell(tell_(peer, reply.envelope, reply.body), client));
  }
}

Result<void> LyingRelay::tell(const Lie& lie, const UniqueFd& client) {
  const Deadline deadline = Deadline::after(kPatience);
  switch (lie.then) {
    case Lie::Then::kGoOn:
      return send_all(client, lie.bytes, deadline);
    case Lie::Then::kHangUp:
      TRY(send_all(client, lie.bytes, deadline));
      return fail(ErrorCode::kStopped, "hung up");
    case Lie::Then::kStall:
      TRY(send_all(client, lie.bytes, deadline));
      break;
    case Lie::Then::kTrickle:
      for (const std::byte& byte : lie.bytes) {
        TRY(send_all(client, ByteSpan(&byte, 1), deadline));
        ::poll(nullptr, 0, kTrickleMs);
        if (clients_.stopping()) break;
      }
      return {};
  }
  // Until the peer has had enough.
  pollfd gone{.fd = client.get(), .events = POLLRDHUP, .revents = 0};
  while (!clients_.stopping() && ::poll(&gone, 1, static_cast<int>(kStopInterval.count())) == 0)
    continue;
  return fail(ErrorCode::kStopped, "the peer has gone");
}

}  // namespace thaw::test
