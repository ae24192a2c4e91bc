#include "tests/support/http_client.h"

#include <array>

#include "base/socket.h"
#include "tests/support/loopback.h"

namespace thaw::test {

namespace {

Result<std::string> try_to_exchange(const std::string& address, const std::string& request) {
  const Deadline deadline = Deadline::after(std::chrono::seconds(20));
  const UniqueFd socket = TRY(connect_tcp(TRY(resolve_tcp(address)), deadline));
  TRY(send_all(socket, as_bytes(request), deadline));
  std::string reply;
  while (true) {
    std::array<std::byte, 4096> some;
    const std::size_t n = TRY(receive_some(socket, some, deadline));
    if (n == 0) return reply;
    reply += as_text(std::span(some).first(n));
  }
}

}  // namespace

std::string exchange_http(const std::string& address, const std::string& request) {
  const auto reply = try_to_exchange(address, request);
  return reply ? *reply : reply.error().message();
}

std::string http_get(const std::string& address, const std::string& path) {
  return exchange_http(address, "GET " + path + " HTTP/1.1\r\nHost: thaw\r\n\r\n");
}

std::string free_address() { return TcpListener().address.text(); }

}  // namespace thaw::test
