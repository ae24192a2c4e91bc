#include "tests/support/relay.h"

#include <array>

#include "base/socket.h"
#include "tests/support/programs.h"

namespace thaw::test {

namespace {
/// How soon a thread that waits for bytes sees that the relay is destroyed.
constexpr std::chrono::milliseconds kStopInterval{50};
}  // namespace

Relay::Relay(std::string server, Tamper tamper)
    : server_(std::move(server)),
      tamper_(std::move(tamper)),
      clients_([this](UniqueFd client) { connect(std::move(client)); }) {}

void Relay::connect(UniqueFd client) {
  const auto server = connect_tcp(*resolve_tcp(server_), Deadline::after(kPatience));
  if (!server) return;
  const std::jthread back([&] { pass(Way::kToClient, *server, client); });
  pass(Way::kToServer, client, *server);
}

void Relay::pass(Way way, const UniqueFd& from, const UniqueFd& to) {
  std::array<std::byte, 8192> piece;
  std::size_t passed = 0;
  while (!clients_.stopping()) {
    const auto n = receive_some(from, piece, Deadline::after(kStopInterval));
    if (!n && n.error().code() == ErrorCode::kTimeout) continue;
    if (!n || *n == 0 || !tamper_(way, passed, MutableByteSpan(piece).first(*n))) break;
    passed += *n;
    if (!send_all(to, ByteSpan(piece).first(*n), Deadline::after(kPatience))) break;
  }
  shut_down(from);
  shut_down(to);
}

}  // namespace thaw::test
