#include "tests/support/relay.h"

#include <array>
#include <memory>

#include <sys/socket.h>

#include "base/check.h"
#include "base/socket.h"
#include "tests/support/programs.h"

namespace thaw::test {

namespace {
/// How soon a thread that waits for bytes sees that the relay is destroyed.
constexpr std::chrono::milliseconds kStopInterval{50};
}  // namespace

Relay::Relay(std::string server, Tamper tamper)
    : server_(std::move(server)), tamper_(std::move(tamper)), address_(listener_.address.text()) {
  acceptor_ = std::jthread([this] { serve(); });
}

Relay::~Relay() {
  stopping_ = true;
  shut_down(listener_.socket);
  acceptor_.join();
}

void Relay::serve() {
  while (true) {
    UniqueFd client(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) return;
    connections_.emplace_back([this, fd = client.release()] { connect(UniqueFd(fd)); });
  }
}

void Relay::connect(UniqueFd client) {
  const auto server = connect_tcp(*resolve_tcp(server_), Deadline::after(kPatience));
  if (!server) return;
  const std::jthread back([&] { pass(Way::kToClient, *server, client); });
  pass(Way::kToServer, client, *server);
}

void Relay::pass(Way way, const UniqueFd& from, const UniqueFd& to) {
  std::array<std::byte, 8192> piece;
  std::size_t passed = 0;
  while (!stopping_) {
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
