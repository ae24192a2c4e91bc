#include "faulthandler/keep_channel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <vector>

#include <poll.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

/// A message as it is sent; its descriptors come in the order of their roles.
struct Frame {
  std::uint32_t kind;
  std::uint32_t roles;
  std::uint64_t session;
  std::uint64_t value;
};

bool is_known(std::uint32_t kind) {
  return kind >= static_cast<std::uint32_t>(KeepMessage::Kind::kKeep) &&
         kind <= static_cast<std::uint32_t>(KeepMessage::Kind::kOutage);
}

}  // namespace

KeepChannel::KeepChannel(Loop& loop, UniqueFd socket, std::function<void(KeepMessage)> on_message,
                         std::function<void()> on_closed)
    : loop_(loop),
      socket_(std::move(socket)),
      on_message_(std::move(on_message)),
      on_closed_(std::move(on_closed)) {
  loop_.poll(socket_, POLLIN, receiving_);
}

void KeepChannel::send(KeepMessage message) {
  if (closed_) return;
  if (waiting_.size() >= limits::kMaxKeepMessages) {
    return log_error("{} messages wait between supervisor and fault handler", waiting_.size());
  }
  waiting_.push_back(std::move(message));
  if (!sending_.active()) flush();
}

void KeepChannel::flush() {
  while (!waiting_.empty() && !closed_) {
    const KeepMessage& message = waiting_.front();
    std::vector<int> descriptors;
    message.descriptors.for_each(
        [&](KeptRole, const UniqueFd& descriptor) { descriptors.push_back(descriptor.get()); });
    const std::array frame{Frame{static_cast<std::uint32_t>(message.kind),
                                 message.descriptors.roles(), message.session, message.value}};
    const auto sent = send_with_descriptors(socket_, std::as_bytes(std::span(frame)), descriptors,
                                            Deadline::after(Nanoseconds(0)));
    if (!sent && sent.error().code() == ErrorCode::kTimeout) {
      return loop_.poll(socket_, POLLOUT, sending_);
    }
    if (!sent) waiting_.clear();  // the other end is gone, which receiving tells
    if (!waiting_.empty()) waiting_.pop_front();
  }
}

void KeepChannel::on_writable(int result) {
  if (result >= 0 && !closed_) flush();
}

Result<bool> KeepChannel::receive_one() {
  std::array<Frame, 1> frame{};
  const auto receive = [&] {
    return receive_with_descriptors(socket_, std::as_writable_bytes(std::span(frame)));
  };
  auto attempt = receive();
  // An end that is closed with something unread is told of first, and once: what it said is there.
  if (!attempt && attempt.error().error_number() == ECONNRESET) attempt = receive();
  auto received = TRY(std::move(attempt));
  if (!received) return false;
  if (received->bytes == 0) return fail(ErrorCode::kUnavailable, "it is gone");
  const auto [kind, roles, session, value] = frame.front();
  if (received->bytes != sizeof(Frame) || !is_known(kind) || roles >= 1u << kKeptRoles ||
      static_cast<std::size_t>(std::popcount(roles)) != received->descriptors.size()) {
    return fail(ErrorCode::kProtocol, "a message that makes no sense");
  }
  KeepMessage message{static_cast<KeepMessage::Kind>(kind), session, value};
  auto next = received->descriptors.begin();
  for (std::size_t i = 0; i < kKeptRoles; ++i) {
    if ((roles >> i & 1u) != 0) message.descriptors[static_cast<KeptRole>(i)] = std::move(*next++);
  }
  on_message_(std::move(message));
  return true;
}

bool KeepChannel::has_room() const {
  std::array<UniqueFd, kKeptRoles> taken;
  return std::ranges::all_of(taken, [this](UniqueFd& one) {
    auto copy = duplicate(socket_);
    if (copy) one = *std::move(copy);
    return one.valid();
  });
}

void KeepChannel::on_readable(int result) {
  if (closed_ || result == -ECANCELED) return;
  if (result >= 0) return receive_all();
  close();
  on_closed_();
}

void KeepChannel::on_rested(int result) {
  if (result == -ETIME && !closed_) receive_all();
}

void KeepChannel::receive_all() {
  while (!closed_) {
    if (!has_room()) {
      log_error("no descriptors are left to take over more");
      return loop_.wait(limits::kAcceptPauseMost, resting_);
    }
    const auto more = receive_one();
    if (more && !*more) return loop_.poll(socket_, POLLIN, receiving_);
    if (more || closed_) continue;
    log_debug("between supervisor and fault handler: {}", more.error().message());
    close();
    on_closed_();
  }
}

void KeepChannel::drain() {
  while (!closed_) {
    const auto more = receive_one();
    if (!more || !*more) return;
  }
}

void KeepChannel::close() {
  closed_ = true;
  waiting_.clear();
  loop_.cancel(receiving_);
  loop_.cancel(sending_);
  loop_.cancel(resting_);
}

}  // namespace thaw
