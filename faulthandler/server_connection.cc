#include "faulthandler/server_connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "faulthandler/limits.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr std::chrono::seconds kAwayLogInterval{10};

}  // namespace

ServerConnection::ServerConnection(Loop& loop, Origin origin, Options options, User& user)
    : loop_(loop),
      origin_(std::move(origin)),
      options_(std::move(options)),
      server_(options_.server),
      user_(user),
      memory_(
          std::make_unique_for_overwrite<std::byte[]>(options_.buffers * options_.buffer_bytes)),
      kept_(options_.buffers),
      backoff_(limits::kReconnectFirst) {
  CHECK(options_.buffers > 0 && options_.buffer_bytes >= options_.most_reply_bytes);
  unsent_.reserve(options_.send_bytes);
  sending_.reserve(options_.send_bytes);
  header_.reserve(limits::kMaxReplyHeaderBytes);
}

MutableByteSpan ServerConnection::buffer(std::size_t index) const {
  return memory().subspan(index * options_.buffer_bytes, options_.buffer_bytes);
}

std::size_t ServerConnection::keep_buffer() {
  ++kept_[current_];
  return current_;
}

void ServerConnection::let_go(std::size_t buffer) {
  --kept_[buffer];
  if (state_ == State::kReady && !receiving_.active() && !unsealing_.active()) receive();
}

void ServerConnection::open() {
  if (state_ == State::kAway && !timer_.active()) connect();
}

void ServerConnection::serve(const Origin& origin) {
  CHECK(!user_.needs_connection());
  origin_ = origin;
  leave("it is to serve another store");
}

void ServerConnection::move_to(const std::optional<ServerAddress>& server) {
  CHECK(state_ == State::kAway || state_ == State::kClosing);
  server_ = server;
  away_since_ = {};  // which was another's
}

void ServerConnection::leave(const std::string& reason) {
  if (state_ != State::kAway && state_ != State::kClosing) lose(reason);
}

std::optional<Clock::time_point> ServerConnection::away_since() const {
  if (away_since_ == Clock::time_point{}) return std::nullopt;
  return away_since_;
}

void ServerConnection::connect() {
  if (!server_) return;
  auto socket = create_tcp_socket(server_->tcp);
  if (!socket) return lose(socket.error().message());
  socket_ = *std::move(socket);
  tls_.reset();
  unseals_later_ = false;
  if (server_->tls != nullptr) {
    auto session = server_->tls->begin(server_->host);
    if (!session) return lose(session.error().message());
    tls_ = *std::move(session);
    tls_->outbox().reserve(options_.send_bytes);
  }
  state_ = State::kConnecting;
  // What is kept of the lost connection's replies stays where it is.
  start_ = filled_ = kept_[current_] == 0 ? 0 : options_.buffer_bytes;
  unsent_.clear();
  loop_.connect(socket_, server_->tcp, connecting_);
  arm_timer(limits::kDemandTimeout);
}

void ServerConnection::on_connected(int result) {
  if (state_ == State::kClosing) return finish_losing();
  if (result < 0) return lose(std::strerror(-result));
  if (!tls_) return greet();
  state_ = State::kSecuring;
  secure();
}

void ServerConnection::secure() {
  const auto done = tls_->shake_hands();
  flush();  // after a failure it says why
  if (!done) return lose(done.error().message());
  if (!*done) return receive();
  greet();
}

void ServerConnection::greet() {
  state_ = State::kGreeting;
  encode_message(
      message::Hello{
          .version = message::kVersion, .role = options_.role, .name_space = origin_.name_space},
      0, 0, unsent_);
  flush();
  // Behind the handshake the server may have sent more already.
  unseals_later_ = tls_.has_value();
  receive();
}

void ServerConnection::flush() {
  if (sending_operation_.active()) return;
  if (tls_) {
    const ByteSpan plain = unsent_;
    // What cannot be sealed ends the connection: nothing comes any more.
    if (!plain.empty() && !tls_->write(std::span(&plain, 1))) shut_down(socket_);
    unsent_.clear();
    std::swap(unsent_, tls_->outbox());
  }
  if (unsent_.empty()) return;
  // Most often that is all: no operation, and no turn of the loop for its end.
  sent_bytes_ = send_at_once(socket_, unsent_);
  std::swap(sending_, unsent_);
  unsent_.clear();
  arm_timer(limits::kDemandTimeout / 5);
  if (sent_bytes_ == sending_.size()) return;
  loop_.send(socket_, ByteSpan(sending_).subspan(sent_bytes_), sending_operation_);
}

void ServerConnection::on_sent(int result) {
  if (state_ == State::kClosing) return finish_losing();
  if (result < 0) return lose(std::strerror(-result));
  sent_bytes_ += static_cast<std::size_t>(result);
  if (sent_bytes_ < sending_.size()) {
    loop_.send(socket_, ByteSpan(sending_).subspan(sent_bytes_), sending_operation_);
    return;
  }
  flush();
}

bool ServerConnection::make_room() {
  const std::size_t rest = filled_ - start_;
  if (kept_[current_] != 0) {
    // What is kept stays where it is; the reply that has begun moves when it might not fit.
    if (options_.buffer_bytes - start_ >= options_.most_reply_bytes) return true;
    const auto free = std::ranges::find(kept_, std::size_t{0});
    if (free == kept_.end()) return false;
    const auto next = static_cast<std::size_t>(free - kept_.begin());
    std::memcpy(buffer(next).data(), buffer(current_).data() + start_, rest);
    current_ = next;
  } else if (start_ > 0) {
    std::memmove(buffer(current_).data(), buffer(current_).data() + start_, rest);
  }
  start_ = 0;
  filled_ = rest;
  return true;
}

void ServerConnection::receive() {
  if (!make_room()) return;
  if (unseals_later_) return loop_.wait(Nanoseconds(0), unsealing_);
  loop_.receive(socket_, tls_ ? tls_->inbox() : buffer(current_).subspan(filled_), receiving_);
}

void ServerConnection::on_unsealing() {
  if (state_ == State::kClosing) return finish_losing();
  take_received();
}

void ServerConnection::on_received(int result) {
  if (state_ == State::kClosing) return finish_losing();
  if (result <= 0) return lose(result == 0 ? "it closed the connection" : std::strerror(-result));
  const auto bytes = static_cast<std::size_t>(result);
  if (tls_) {
    tls_->received(bytes);
  } else {
    filled_ += bytes;
  }
  if (state_ == State::kSecuring) return secure();
  take_received();
}

void ServerConnection::take_received() {
  const auto taken = tls_ ? unseal_and_take_replies() : take_replies();
  if (!taken) return lose(taken.error().message());
  receive();
  flush();
  user_.on_replies_end();
}

Result<void> ServerConnection::unseal_and_take_replies() {
  while (true) {
    unseals_later_ = !make_room();
    if (unseals_later_) return {};
    const std::size_t n = TRY(tls_->read(buffer(current_).subspan(filled_)));
    if (n == 0 && tls_->closed()) {
      return fail(ErrorCode::kUnavailable, "it closed the connection");
    }
    if (n == 0) return {};
    filled_ += n;
    TRY(take_replies());
  }
}

Result<void> ServerConnection::take_replies() {
  while (filled_ - start_ >= kWireHeadBytes) {
    const ByteSpan rest = ByteSpan(buffer(current_)).subspan(start_, filled_ - start_);
    const WireHead head = TRY(decode_wire_head(rest.first<kWireHeadBytes>()));
    const std::size_t size = kWireHeadBytes + head.header_bytes + head.body_bytes;
    if (head.header_bytes > limits::kMaxReplyHeaderBytes || size > options_.most_reply_bytes) {
      return fail(ErrorCode::kTooLarge, "a reply of {} bytes", size);
    }
    if (rest.size() < size) break;
    const ByteSpan header = rest.subspan(kWireHeadBytes, head.header_bytes);
    header_.assign(header.begin(), header.end());
    Envelope envelope = TRY(decode_message(header_));
    TRY(take_reply(std::move(envelope),
                   rest.subspan(kWireHeadBytes + head.header_bytes, head.body_bytes)));
    start_ += size;
  }
  return {};
}

Result<void> ServerConnection::take_reply(Envelope reply, ByteSpan body) {
  const auto* const refusal = std::get_if<message::ErrorReply>(&reply.message);
  // It answers no request: the server says why it ends the connection.
  if (refusal != nullptr && (state_ != State::kReady || reply.request_id == 0)) {
    return std::unexpected(from_reply(*refusal));
  }
  if (state_ == State::kReady) {
    backoff_ = limits::kReconnectFirst;  // it does more than welcome
    return user_.on_reply(std::move(reply), body);
  }
  const auto* const welcome = std::get_if<message::Welcome>(&reply.message);
  if (welcome == nullptr || welcome->version != message::kVersion) {
    return fail(ErrorCode::kBadVersion, "no welcome of version {}", message::kVersion);
  }
  if (welcome->store != origin_.store) {
    const Error error(ErrorCode::kWrongStore,
                      fmt::format("it keeps the store {} where {} is meant", welcome->store.text(),
                                  origin_.store.text()));
    user_.on_wrong_store(error);
    return std::unexpected(error);
  }
  state_ = State::kReady;
  ready_since_ = Clock::now();
  if (away_since_ != Clock::time_point{}) {
    // Only of what was told: a server that comes and goes would fill the log.
    if (away_logged_ >= away_since_) {
      log_warning("page server {} is back", server_->text());
    }
    away_since_ = {};
  }
  user_.on_ready();
  return {};
}

void ServerConnection::lose(const std::string& reason) {
  const auto now = Clock::now();
  if (state_ == State::kReady && now - ready_since_ > limits::kReconnectMost) {
    backoff_ = limits::kReconnectFirst;  // it was not one of a series
  }
  if (!closed_ && server_) {
    if (away_since_ == Clock::time_point{}) away_since_ = now;
    if (now - away_logged_ > kAwayLogInterval) {
      away_logged_ = now;
      log_error("page server {} is away: {}; {} pages wait for it", server_->text(), reason,
                user_.outstanding());
    }
  }
  state_ = State::kClosing;
  // Wakes operations on the socket; a connect that hangs is cancelled.
  shut_down(socket_);
  loop_.cancel(connecting_);
  loop_.cancel(sending_operation_);
  loop_.cancel(receiving_);
  loop_.cancel(unsealing_);
  loop_.cancel(timer_);
  user_.on_lost();
  finish_losing();
}

void ServerConnection::finish_losing() {
  if (!idle()) return;
  socket_.reset();
  state_ = State::kAway;
  if (closed_) return;
  arm_timer(backoff_);
  backoff_ = std::min<Nanoseconds>(backoff_ * 2, limits::kReconnectMost);
}

void ServerConnection::arm_timer(Nanoseconds duration) {
  if (!timer_.active()) loop_.wait(duration, timer_);
}

void ServerConnection::on_timer() {
  switch (state_) {
    case State::kClosing:
      return finish_losing();
    case State::kAway:
      if (!closed_ && user_.needs_connection()) connect();
      return;
    case State::kConnecting:
    case State::kSecuring:
    case State::kGreeting:
      return lose("it does not answer");
    case State::kReady:
      break;
  }
  if (user_.outstanding() == 0) return;
  if (receiving_.active() && user_.overdue(Clock::now())) return lose("a request went unanswered");
  arm_timer(limits::kDemandTimeout / 5);
}

void ServerConnection::close() {
  closed_ = true;
  lose("the fault handler stops");
}

bool ServerConnection::idle() const {
  return !connecting_.active() && !sending_operation_.active() && !receiving_.active() &&
         !unsealing_.active() && !timer_.active();
}

}  // namespace thaw
