#include "tests/sim/unix_socket.h"

#include <algorithm>

#include <poll.h>

namespace thaw::sim {

short UnixSocket::ready() const { return !messages_.empty() || closed_ ? POLLIN : 0; }

std::optional<UnixSocket::Message> UnixSocket::take(std::size_t most) {
  if (messages_.empty()) return closed_ ? std::optional<Message>(Message{}) : std::nullopt;
  Message& next = messages_.front();
  const std::size_t count = std::min(most, next.bytes.size());
  const auto end = next.bytes.begin() + static_cast<std::ptrdiff_t>(count);
  Message taken{Bytes(next.bytes.begin(), end), std::exchange(next.files, {})};
  next.bytes.erase(next.bytes.begin(), end);
  if (next.bytes.empty()) messages_.pop_front();
  return taken;
}

std::optional<std::size_t> UnixSocket::peek(MutableByteSpan to) const {
  if (messages_.empty()) return closed_ ? std::optional(std::size_t{0}) : std::nullopt;
  const Bytes& next = messages_.front().bytes;
  const std::size_t count = std::min(to.size(), next.size());
  std::copy_n(next.begin(), count, to.begin());
  return count;
}

void UnixSocket::send(Message message) {
  messages_.push_back(std::move(message));
  machine_.notify();
}

void UnixSocket::close() {
  closed_ = true;
  machine_.notify();
}

short UnixListener::ready() const { return !waiting_.empty() ? POLLIN : 0; }

std::shared_ptr<UnixSocket> UnixListener::accept() {
  if (waiting_.empty()) return nullptr;
  auto socket = std::move(waiting_.front());
  waiting_.pop_front();
  return socket;
}

void UnixListener::connect(std::shared_ptr<UnixSocket> socket) {
  waiting_.push_back(std::move(socket));
  machine_.notify();
}

short Process::ready() const { return exited_ ? POLLIN : 0; }

void Process::exit() {
  exited_ = true;
  machine_.notify();
}

}  // namespace thaw::sim
