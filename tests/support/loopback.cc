#include "tests/support/loopback.h"

#include <sys/socket.h>

#include "base/check.h"

namespace thaw::test {

TcpListener::TcpListener(const std::string& host)
    : socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      address(resolve_tcp(host + ":0").value()) {
  // SAFETY: sockaddr_storage exists to be passed as sockaddr.
  auto* const raw = reinterpret_cast<sockaddr*>(&address.storage);
  CHECK(::bind(socket.get(), raw, address.length) == 0);
  CHECK(::listen(socket.get(), 8) == 0);
  CHECK(::getsockname(socket.get(), raw, &address.length) == 0);
}

}  // namespace thaw::test
