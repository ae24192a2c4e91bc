#include "faulthandler/keep_channel.h"

#include <algorithm>
#include <cerrno>

#include <poll.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

KeepChannel::KeepChannel(Loop& loop, UniqueFd socket, DescriptorReserve& reserve,
                         std::function<void(KeepMessage)> on_message,
                         std::function<void(End)> on_closed)
    : loop_(loop),
      socket_(std::move(socket)),
      on_message_(std::move(on_message)),
      on_closed_(std::move(on_closed)),
      reserve_(reserve) {
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
    const auto sent = send_message(socket_, waiting_.front());
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
    log_warning("the other process is told later: {}", error.message());
  }
  unsent_since_ = unsent_since_.value_or(now);
  if (now - *unsent_since_ > limits::kKeepSendPatience) return give_up(error.message());
  loop_.wait(pause_, retrying_);
  pause_ = std::min<Nanoseconds>(pause_ * 2, limits::kKeepSendMost);
}

void KeepChannel::give_up(const std::string& reason) {
  log_error("the other process cannot be told: {}; another one begins anew", reason);
  close();
  on_closed_(End::kGivenUp);
  shut_down(socket_);
}

void KeepChannel::on_writable(int result) {
  if (result >= 0 && !closed_) flush();
}

Result<bool> KeepChannel::receive_one() {
  auto message = TRY(receive_message(socket_));
  if (!message) return false;
  on_message_(*std::move(message));
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
    log_debug("the other process: {}", more.error().message());
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
