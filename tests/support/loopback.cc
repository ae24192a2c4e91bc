#include "tests/support/loopback.h"

#include <sys/socket.h>

#include "base/check.h"

namespace thaw::test {

TcpAddress address_of(const UniqueFd& socket) {
  TcpAddress address;
  address.length = sizeof(address.storage);
  // SAFETY: sockaddr_storage exists to be passed as sockaddr.
  auto* const raw = reinterpret_cast<sockaddr*>(&address.storage);
  CHECK(::getsockname(socket.get(), raw, &address.length) == 0);
  return address;
}

TcpListener::TcpListener(const std::string& host)
    : socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      address(resolve_tcp(host + ":0").value()) {
  // SAFETY: sockaddr_storage exists to be passed as sockaddr.
  auto* const raw = reinterpret_cast<sockaddr*>(&address.storage);
  CHECK(::bind(socket.get(), raw, address.length) == 0);
  CHECK(::listen(socket.get(), 8) == 0);
  address = address_of(socket);
}

LoopbackServer::LoopbackServer(Serve serve)
    : serve_(std::move(serve)), address_(listener_.address.text()) {
  acceptor_ = std::jthread([this] { accept_all(); });
}

LoopbackServer::~LoopbackServer() {
  stopping_ = true;
  shut_down(listener_.socket);
  acceptor_.join();
}

void LoopbackServer::accept_all() {
  while (true) {
    UniqueFd client(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) return;
    connections_.emplace_back([this, fd = client.release()] { serve_(UniqueFd(fd)); });
  }
}

}  // namespace thaw::test
