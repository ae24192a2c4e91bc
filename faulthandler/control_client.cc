#include "faulthandler/control_client.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include <poll.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

ControlClient::ControlClient(Service& service, UniqueFd connection)
    : service_(service), connection_(std::move(connection)) {
  service_.loop.poll(connection_, POLLIN, receiving_);
  set_patience(limits::kControlTimeout);
}

void ControlClient::on_readable(int result) {
  if (state_ != State::kReading) return;
  if (result < 0) return close();
  auto piece = receive_with_descriptors(connection_, piece_);
  if (!piece) return close();
  if (*piece) return on_piece(**std::move(piece));
  service_.loop.poll(connection_, POLLIN, receiving_);
}

void ControlClient::on_piece(Received piece) {
  if (piece.bytes == 0) return close();
  line_.append(as_text(ByteSpan(piece_).first(piece.bytes)));
  std::ranges::move(piece.descriptors, std::back_inserter(descriptors_));
  if (piece.lost_descriptors || descriptors_.size() > limits::kMaxDescriptorsPerMessage) {
    descriptors_.clear();
    return reply(Error(ErrorCode::kNoDescriptors, "descriptors of the request were lost"));
  }
  if (const auto end = line_.find('\n'); end != std::string::npos) {
    const auto request = decode_control_request(std::string_view(line_).substr(0, end));
    return request ? begin(*request) : reply(request.error());
  }
  if (line_.size() > limits::kMaxControlBytes) {
    return reply(Error(ErrorCode::kTooLarge, fmt::format("a control message of more than {} bytes",
                                                         limits::kMaxControlBytes)));
  }
  service_.loop.poll(connection_, POLLIN, receiving_);
}

void ControlClient::begin(const ControlRequest& request) {
  if (const auto* const wanted = std::get_if<control::Prepare>(&request)) {
    if (service_.prepares_under_way >= limits::kMaxPrepares) {
      return reply(Error(ErrorCode::kBusy, fmt::format("{} sessions are being prepared already",
                                                       service_.prepares_under_way)));
    }
    auto objects = SessionObjects::of(*wanted, std::move(descriptors_));
    if (!objects) return reply(objects.error());
    objects_ = *std::move(objects);
    ++service_.prepares_under_way;
  }
  descriptors_.clear();
  state_ = State::kRunning;
  request_ = request;
  in_pool_ = true;
  pool().add(*this);
  // Tells alone that the client has closed its end; one that only ends its sending still reads.
  service_.loop.poll(connection_, 0, watching_);
  set_patience(limits::kPrepareTimeout);
}

WorkerPool& ControlClient::pool() const {
  return prepares() && state_ == State::kRunning ? service_.prepares : service_.others;
}

void ControlClient::work(WorkerPool::Tools&) {
  if (state_ == State::kTakingBack) return result_.take_back();
  if (const auto* const wanted = std::get_if<control::Prepare>(&request_)) {
    result_ = service_.commands.prepare(*wanted, std::move(objects_), stop_.get_token());
  } else {
    result_ = {service_.commands.handle(request_), {}};
  }
}

void ControlClient::on_done() {
  in_pool_ = false;
  if (state_ == State::kTakingBack) {
    state_ = State::kClosed;
    return;
  }
  if (prepares()) --service_.prepares_under_way;
  if (hung_up_) return on_undelivered();
  const auto* const error = std::get_if<Error>(&result_.reply);
  if (late_ && error != nullptr && error->code() == ErrorCode::kStopped) {
    return reply(Error(ErrorCode::kTimeout,
                       fmt::format("the session was not prepared within {} seconds",
                                   std::chrono::seconds(limits::kPrepareTimeout).count())));
  }
  reply(result_.reply);
}

void ControlClient::reply(const ControlReply& reply) {
  state_ = State::kSending;
  reply_ = encode_control_reply(reply);
  set_patience(limits::kControlTimeout);
  service_.loop.send(connection_, as_bytes(reply_), sending_);
}

void ControlClient::on_sent(int result) {
  if (state_ != State::kSending) return;
  if (result <= 0) return on_undelivered();
  sent_ += static_cast<std::size_t>(result);
  if (sent_ < reply_.size()) {
    return service_.loop.send(connection_, as_bytes(reply_).subspan(sent_), sending_);
  }
  if (!result_.take_back) return close();
  state_ = State::kDelivering;
  if (hung_up_) on_hang_up(POLLHUP);
}

void ControlClient::on_hang_up(int result) {
  if (state_ == State::kClosed || state_ == State::kTakingBack || result == -ECANCELED) return;
  hung_up_ = true;
  if (state_ == State::kDelivering) {
    // A client that has not read all when it goes leaves an error behind.
    std::byte byte{};
    const bool unread = result < 0 || (result & POLLERR) != 0 || !peek(connection_, {&byte, 1});
    return unread ? on_undelivered() : close();
  }
  if (state_ != State::kRunning || !prepares()) return;
  stop_.request_stop();
  if (take_from_pool()) close();
}

void ControlClient::on_undelivered() {
  if (!result_.take_back) return close();
  log_warning("control socket: a client went away before it had its session, which is taken back");
  close();
  state_ = State::kTakingBack;
  in_pool_ = true;
  pool().add(*this);
}

void ControlClient::set_patience(Nanoseconds time) {
  patience_ends_ = Clock::now() + time;
  patience_.active() ? service_.loop.cancel(patience_) : service_.loop.wait(time, patience_);
}

void ControlClient::on_patience(int result) {
  if (state_ == State::kClosed || state_ == State::kTakingBack) return;
  const Nanoseconds left = patience_ends_ - Clock::now();
  if (result == -ETIME && left <= Nanoseconds(0)) return on_patience_over();
  service_.loop.wait(std::max(left, Nanoseconds(0)), patience_);
}

void ControlClient::on_patience_over() {
  if (state_ == State::kReading || state_ == State::kDelivering) return close();
  if (state_ == State::kSending) return on_undelivered();
  if (late_) return;  // the command ends soon
  late_ = true;
  stop_.request_stop();
  if (take_from_pool()) {
    reply(Error(ErrorCode::kTimeout, "too many other commands are under way"));
  }
}

bool ControlClient::take_from_pool() {
  if (!pool().take_back(*this)) return false;
  in_pool_ = false;
  if (prepares()) --service_.prepares_under_way;
  return true;
}

void ControlClient::close() {
  if (in_pool_) return;
  state_ = State::kClosed;
  for (Operation* operation : {&receiving_, &sending_, &watching_, &patience_}) {
    service_.loop.cancel(*operation);
  }
}

void ControlClient::stop() {
  if (state_ == State::kReading || state_ == State::kDelivering) return close();
  if (state_ == State::kRunning) stop_.request_stop();
}

bool ControlClient::finished() const {
  return state_ == State::kClosed && !in_pool_ && !receiving_.active() && !sending_.active() &&
         !watching_.active() && !patience_.active();
}

}  // namespace thaw
