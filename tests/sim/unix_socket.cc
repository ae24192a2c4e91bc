#include "tests/sim/unix_socket.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include <poll.h>

namespace thaw::sim {

short UnixSocket::ready() const { return !messages_.empty() || closed_ ? POLLIN : 0; }

UnixSocket::~UnixSocket() {
  if (on_end_) on_end_(messages_.empty());
}

Result<std::optional<Message>> UnixSocket::take(std::size_t most) {
  if (messages_.empty()) return closed_ ? std::optional(Message{}) : std::nullopt;
  Message& next = messages_.front();
  const std::size_t count = std::min(most, next.bytes.size());
  const auto end = next.bytes.begin() + static_cast<std::ptrdiff_t>(count);
  Message taken{Bytes(next.bytes.begin(), end), std::exchange(next.files, {})};
  next.bytes.erase(next.bytes.begin(), end);
  if (next.bytes.empty()) messages_.pop_front();
  return std::optional(std::move(taken));
}

Result<void> UnixSocket::send_message(Message message) {
  if (on_greeting_) on_greeting_(std::move(message.files.at(0)));
  return {};
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

std::pair<std::shared_ptr<MessageSocket>, std::shared_ptr<MessageSocket>> MessageSocket::make_pair(
    Machine& machine) {
  const auto first = std::make_shared<MessageSocket>(machine, SIZE_MAX);
  const auto second = std::make_shared<MessageSocket>(machine, machine.random().from_to(1, 30));
  first->other_ = second;
  second->other_ = first;
  return {first, second};
}

MessageSocket::~MessageSocket() {
  if (const auto other = other_.lock()) other->was_reset_ = !messages_.empty();
  machine_.notify();
}

short MessageSocket::ready() const {
  const auto other = other_.lock();
  const bool ended = was_reset_ || other == nullptr;
  short ready = 0;
  if (ended || !messages_.empty()) ready |= POLLIN;
  if (ended || other->messages_.size() < other->room_) ready |= POLLOUT;
  return ready;
}

Result<void> MessageSocket::take_reset() {
  if (std::exchange(was_reset_, false)) return fail_errno("a message socket", ECONNRESET);
  return {};
}

Result<std::optional<Message>> MessageSocket::take(std::size_t) {
  TRY(take_reset());
  if (messages_.empty()) return other_.expired() ? std::optional(Message{}) : std::nullopt;
  Message next = std::move(messages_.front());
  messages_.pop_front();
  machine_.notify();
  return std::optional(std::move(next));
}

Result<void> MessageSocket::send_message(Message message) {
  TRY(take_reset());
  const auto other = other_.lock();
  if (other == nullptr) return fail_errno("a message socket", EPIPE);
  if (other->messages_.size() >= other->room_) return fail(ErrorCode::kTimeout, "no room");
  other->messages_.push_back(std::move(message));
  machine_.notify();
  return {};
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
