#include "pageserver/sys/page_threads.h"

#include <cstring>
#include <optional>
#include <vector>

#include "base/cpu.h"
#include "base/log.h"
#include "base/thread.h"
#include "format/limits.h"

namespace thaw {

namespace {

/// A request for the most chunks has 2 KiB of ids and little else.
constexpr std::size_t kMaxRequestBytes = kWireHeadBytes + limits::kMaxChunksPerRequest * 8 + 1024;

/// The requests of one connection as they arrive, and the replies as they go.
class PagePeer {
 public:
  PagePeer(Stream& stream, Peer& peer, BulkWork& bulk)
      : stream_(stream), peer_(peer), bulk_(bulk), buffer_(2 * kMaxRequestBytes) {
    if (peer.role() == message::Role::kDemand) {
      follower_.emplace(is_to_this_host(stream.socket()) ? CoreFollower::WorkFrom::kThisHost
                                                         : CoreFollower::WorkFrom::kElsewhere,
                        bulk);
      if (peer.take_precedence()) take_precedence();
    } else {
      bulk.note();
      take_long_turns();
    }
  }

  /// Waits for requests and answers them; nothing to do any more when it returns false.
  Result<bool> serve_next() {
    const std::size_t n =
        filled_ == 0 ? TRY(stream_.receive_resting(buffer_))
                     : TRY(stream_.receive_some(MutableByteSpan(buffer_).subspan(filled_),
                                                Deadline::after(limits::kPartialMessageTimeout)));
    if (n == 0) return false;
    if (follower_) {
      follower_->on_wakeup([this] { return incoming_cpu(stream_.socket()); });
    } else {
      bulk_.note();
    }
    filled_ += n;
    std::size_t start = 0;
    while (const std::size_t size =
               TRY(answer(ByteSpan(buffer_).subspan(start, filled_ - start)))) {
      start += size;
    }
    std::memmove(buffer_.data(), buffer_.data() + start, filled_ - start);
    filled_ -= start;
    return true;
  }

  void refuse(const Error& error) {
    head_.clear();
    encode_message(to_reply(error), 0, 0, head_);
    // It is left anyway.
    const ByteSpan piece = head_;
    static_cast<void>(stream_.send(std::span(&piece, 1), Deadline::after(limits::kRequestTimeout)));
  }

 private:
  /// Answers the request that `received` begins with and returns its size, or 0 when it is not
  /// there wholly. Requests have no body, so each begins aligned as Cap'n Proto wants it.
  Result<std::size_t> answer(ByteSpan received) {
    if (received.size() < kWireHeadBytes) return std::size_t{0};
    const WireHead head = TRY(decode_wire_head(received.first<kWireHeadBytes>()));
    const std::size_t size = kWireHeadBytes + head.header_bytes;
    if (head.body_bytes != 0 || size > kMaxRequestBytes) {
      return fail(ErrorCode::kTooLarge, "a request for pages of {} + {} bytes", head.header_bytes,
                  head.body_bytes);
    }
    if (received.size() < size) return std::size_t{0};
    const Envelope request =
        TRY(decode_message(received.subspan(kWireHeadBytes, head.header_bytes)));
    const auto reply = peer_.pages(request.message);
    // A peer that may not ask is left, not answered: its guests are to wait for who may.
    if (!reply && reply.error().code() == ErrorCode::kUnauthorized) {
      return std::unexpected(reply.error());
    }
    TRY(send(request.request_id, reply));
    return size;
  }

  Result<void> send(std::uint64_t request_id, const Result<Reply>& reply) {
    pieces_.assign(1, {});
    std::size_t body_bytes = 0;
    if (reply) {
      for (const ByteSpan piece : reply->pieces) body_bytes += piece.size();
      pieces_.insert(pieces_.end(), reply->pieces.begin(), reply->pieces.end());
    }
    head_.clear();
    encode_message(reply ? reply->message : to_reply(reply.error()), request_id, body_bytes, head_);
    pieces_.front() = head_;
    return stream_.send(pieces_, Deadline::after(limits::kRequestTimeout));
  }

  Stream& stream_;
  Peer& peer_;
  BulkWork& bulk_;
  std::optional<CoreFollower> follower_;
  Bytes buffer_;  // requests received and not yet answered
  std::size_t filled_ = 0;
  Bytes head_;
  std::vector<ByteSpan> pieces_;
};

}  // namespace

void PageThreads::forget_ended() {
  const std::lock_guard lock(mutex_);
  connections_.remove_if([](const Connection& connection) { return connection.ended.load(); });
}

Result<PageThreads::Place> PageThreads::take_place() {
  const std::lock_guard lock(mutex_);
  Connection& connection = connections_.emplace_back();
  auto thread = start_thread([this, &connection] {
    give_up_precedence(cpus_);  // which is the loop's
    connection.decided.acquire();
    if (connection.stream) {
      if (const auto served = run(connection, bulk_); !served) {
        log_warning(LogKind("left peers", served.error()), "left {}: {}", connection.remote,
                    served.error().message());
      }
      shut_down(connection.stream->socket());
      connection.peer.reset();
    }
    connection.ended = true;
    ended_();
  });
  if (!thread) {
    connections_.pop_back();
    return std::unexpected(thread.error());
  }
  connection.thread = *std::move(thread);
  return Place(*this, connection);
}

void PageThreads::serve(Connection& connection, Stream stream, Peer peer, std::string remote) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return;
  connection.shown = stream.peer();
  connection.stream.emplace(std::move(stream));
  connection.peer.emplace(std::move(peer));
  connection.remote = std::move(remote);
}

Result<void> PageThreads::run(Connection& connection, BulkWork& bulk) {
  TRY(make_blocking(connection.stream->socket()));
  PagePeer peer(*connection.stream, *connection.peer, bulk);
  while (true) {
    const auto more = peer.serve_next();
    if (!more) {
      if (more.error().code() != ErrorCode::kUnavailable) peer.refuse(more.error());
      return std::unexpected(more.error());
    }
    if (!*more) return {};
  }
}

void PageThreads::leave(const Refusal& refused) {
  std::vector<const Connection*> shown;
  {
    const std::lock_guard lock(mutex_);
    for (const Connection& connection : connections_) {
      if (connection.shown && !connection.ended) shown.push_back(&connection);
    }
  }
  for (const Connection* const connection : shown) {
    if (refused(*connection->shown, connection->remote)) shut_down(connection->stream->socket());
  }
}

void PageThreads::stop() {
  std::list<Connection> ending;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    ending.swap(connections_);
  }
  for (const Connection& connection : ending) {
    if (connection.stream) shut_down_receiving(connection.stream->socket());
  }
}

}  // namespace thaw
