#include "tests/support/notify_socket.h"

#include <algorithm>
#include <array>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/bytes.h"
#include "base/event_fd.h"
#include "base/socket.h"
#include "tests/support/programs.h"

namespace thaw::test {

NotifySocket::NotifySocket(const std::string& path)
    : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::ranges::copy(path, address.sun_path);
  // SAFETY: sockaddr_un exists to be passed as sockaddr.
  const auto* const to = reinterpret_cast<const sockaddr*>(&address);
  EXPECT_EQ(::bind(socket_.get(), to, sizeof(address)), 0);
}

bool NotifySocket::hears(const std::string& message) {
  const Deadline deadline = Deadline::after(kPatience);
  std::array<std::byte, 4096> text;
  while (wait_until_readable(socket_, deadline)) {
    const auto received = receive_with_descriptors(socket_, text);
    if (!received || !*received) return false;
    if (as_text(ByteSpan(text).first((*received)->bytes)) == message) return true;
  }
  return false;
}

void NotifySocket::drain() {
  std::array<std::byte, 4096> text;
  while (true) {
    const auto received = receive_with_descriptors(socket_, text);
    if (!received || !*received) return;
  }
}

}  // namespace thaw::test
