#include "faulthandler/keep_channel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include <poll.h>

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
         kind <= static_cast<std::uint32_t>(KeepMessage::Kind::kUpgraded);
}

}  // namespace

KeepChannel::KeepChannel(Loop& loop, UniqueFd socket, std::function<void(KeepMessage)> on_message,
                         std::function<void(End)> on_closed)
    : loop_(loop),
      socket_(std::move(socket)),
      on_message_(std::move(on_message)),
      on_closed_(std::move(on_closed)) {
  loop_.poll(socket_, POLLIN, receiving_);
}

void KeepChannel::send(KeepMessage message) {
  if (closed_) return;
  if (waiting_.size() >= limits::kMaxKeepMessages) {
    return give_up(fmt::format("{} messages wait", waiting_.size()));
  }
  waiting_.push_back(std::move(message));
  if (!sending_.active() && !retrying_.active()) flush();
}

void KeepChannel::flush() {
  while (!waiting_.empty() && !closed_) {
    const KeepMessage& message = waiting_.front();
    std::vector<int> descriptors;
    message.descriptors.for_each(
        [&](KeptRole, const UniqueFd& descriptor) { descriptors.push_back(descriptor.get()); });
    const std::array frame{Frame{static_cast<std::uint32_t>(message.kind),
                                 message.descriptors.roles(), message.session, message.value}};
    const ByteSpan head = std::as_bytes(std::span(frame));
    const ByteSpan text = as_bytes(std::string_view(message.text).substr(0, limits::kMaxKeepText));
    Bytes bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), text.begin(), text.end());
    const auto sent =
        send_with_descriptors(socket_, bytes, descriptors, Deadline::after(Nanoseconds(0)));
    if (!sent) return on_not_sent(sent.error());
    waiting_.pop_front();
    unsent_since_.reset();
    pause_ = limits::kKeepSendFirst;
  }
}

void KeepChannel::on_not_sent(const Error& error) {
  if (error.code() == ErrorCode::kTimeout) return loop_.poll(socket_, POLLOUT, sending_);
  if (error.code() == ErrorCode::kUnavailable || error.error_number() == EPIPE) {
    return waiting_.clear();  // the other end is gone, which receiving tells
  }
  // Descriptors that are under way count against a limit (ETOOMANYREFS), and memory comes back.
  const auto now = Clock::now();
  if (!unsent_since_) {
    log_warning("between supervisor and fault handler: sent again later: {}", error.message());
  }
  unsent_since_ = unsent_since_.value_or(now);
  if (now - *unsent_since_ > limits::kKeepSendPatience) return give_up(error.message());
  loop_.wait(pause_, retrying_);
  pause_ = std::min<Nanoseconds>(pause_ * 2, limits::kKeepSendMost);
}

void KeepChannel::give_up(const std::string& reason) {
  log_error("between supervisor and fault handler: {}; another handler begins anew", reason);
  close();
  on_closed_(End::kGivenUp);
  shut_down(socket_);
}

void KeepChannel::on_writable(int result) {
  if (result >= 0 && !closed_) flush();
}

Result<bool> KeepChannel::receive_one() {
  std::array<std::byte, sizeof(Frame) + limits::kMaxKeepText> bytes;
  const auto receive = [&] { return receive_with_descriptors(socket_, bytes); };
  auto attempt = receive();
  // An end that is closed with something unread is told of first, and once: what it said is there.
  if (!attempt && attempt.error().error_number() == ECONNRESET) attempt = receive();
  auto received = TRY(std::move(attempt));
  if (!received) return false;
  if (received->bytes == 0) return fail(ErrorCode::kUnavailable, "it is gone");
  Frame frame{};
  if (received->bytes >= sizeof(Frame)) std::memcpy(&frame, bytes.data(), sizeof(Frame));
  const auto [kind, roles, session, value] = frame;
  if (!is_known(kind) || roles >= 1u << kKeptRoles ||
      static_cast<std::size_t>(std::popcount(roles)) != received->descriptors.size()) {
    return fail(ErrorCode::kProtocol, "a message that makes no sense");
  }
  const ByteSpan text = ByteSpan(bytes).first(received->bytes).subspan(sizeof(Frame));
  KeepMessage message{.kind = static_cast<KeepMessage::Kind>(kind),
                      .session = session,
                      .value = value,
                      .descriptors = {},
                      .text = std::string(as_text(text))};
  auto next = received->descriptors.begin();
  for (std::size_t i = 0; i < kKeptRoles; ++i) {
    if ((roles >> i & 1u) != 0) message.descriptors[static_cast<KeptRole>(i)] = std::move(*next++);
  }
  on_message_(std::move(message));
  return true;
}

void KeepChannel::on_readable(int result) {
  if (closed_ || result == -ECANCELED) return;
  if (result >= 0) return receive_all();
  close();
  on_closed_(End::kOther);
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
    reserve_.release();
    const auto more = receive_one();
    if (more && !*more) return loop_.poll(socket_, POLLIN, receiving_);
    if (more || closed_) continue;
    log_debug("between supervisor and fault handler: {}", more.error().message());
    close();
    on_closed_(End::kOther);
  }
}

void KeepChannel::drain() {
  while (true) {
    reserve_.release();
    const auto more = receive_one();
    if (!more || !*more) return;
    static_cast<void>(has_room());
  }
}

void KeepChannel::close() {
  closed_ = true;
  waiting_.clear();
  loop_.cancel(receiving_);
  loop_.cancel(sending_);
  loop_.cancel(resting_);
  loop_.cancel(retrying_);
}

}  // namespace thaw
