#include "faulthandler/demand_link.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "format/limits.h"

namespace thaw {

namespace {

/// Replies on this connection have a short header; anything else is not ours.
constexpr std::size_t kMaxReplyHeaderBytes = 4096;
constexpr std::size_t kMaxReplyBytes =
    kWireHeadBytes + kMaxReplyHeaderBytes +
    (limits::kMaxBatchPages + limits::kMaxBatchRiders) * kMaxChunkBytes;
/// Room for requests, made at the start so that none of them allocates.
constexpr std::size_t kSendBytes = limits::kMaxBatches * 1280;
constexpr std::chrono::seconds kAwayLogInterval{10};

}  // namespace

DemandLink::DemandLink(Loop& loop, TcpAddress server, std::string name_space)
    : loop_(loop), server_(server), name_space_(std::move(name_space)), buffer_(kMaxReplyBytes) {
  for (Batch& batch : batches_) {
    batch.pages.reserve(limits::kMaxBatchPages);
    batch.riders.reserve(limits::kMaxBatchRiders);
  }
  unsent_.reserve(kSendBytes);
  sending_.reserve(kSendBytes);
  header_.reserve(kMaxReplyHeaderBytes);
}

bool DemandLink::has_room(const ChunkSink& sink) const {
  std::size_t free = 0;
  std::size_t own = 0;
  for (const Batch& batch : batches_) {
    if (batch.request_id == 0) ++free;
    if (batch.request_id != 0 && batch.sink == &sink) ++own;
  }
  return free > 0 && own < limits::kMaxBatchesPerSession;
}

void DemandLink::request(ChunkSink& sink, std::span<const WantedPage> pages,
                         std::span<const Rider> riders) {
  Batch* const batch = free_batch();
  CHECK(batch != nullptr && !pages.empty() && pages.size() <= limits::kMaxBatchPages &&
        riders.size() <= limits::kMaxBatchRiders);
  batch->sink = &sink;
  batch->pages.assign(pages.begin(), pages.end());
  batch->riders.assign(riders.begin(), riders.end());
  batch->request_id = next_request_++;
  if (state_ == State::kReady) {
    send_batch(*batch);
    flush();
    arm_timer(limits::kDemandTimeout / 5);
  }
  if (state_ == State::kAway && !timer_.active()) connect();
}

void DemandLink::add(ChunkSink& sink) {
  sinks_.push_back(&sink);
  if (state_ == State::kAway && !timer_.active()) connect();
}

void DemandLink::forget(const ChunkSink& sink) {
  std::erase(sinks_, &sink);
  for (Batch& batch : batches_) {
    if (batch.sink == &sink) batch.sink = nullptr;
  }
}

DemandLink::Batch* DemandLink::free_batch() {
  const auto found = std::ranges::find(batches_, std::uint64_t{0}, &Batch::request_id);
  return found == batches_.end() ? nullptr : &*found;
}

std::size_t DemandLink::outstanding() const {
  std::size_t pages = 0;
  for (const Batch& batch : batches_) {
    if (batch.request_id != 0) pages += batch.pages.size();
  }
  return pages;
}

void DemandLink::connect() {
  auto socket = create_tcp_socket(server_);
  if (!socket) return lose(socket.error().message());
  socket_ = *std::move(socket);
  state_ = State::kConnecting;
  filled_ = 0;
  unsent_.clear();
  loop_.connect(socket_, server_, connecting_);
  arm_timer(limits::kDemandTimeout);
}

void DemandLink::on_connected(int result) {
  if (state_ == State::kClosing) return finish_losing();
  if (result < 0) return lose(std::strerror(-result));
  state_ = State::kGreeting;
  send_hello();
  loop_.receive(socket_, buffer_, receiving_);
}

void DemandLink::send_hello() {
  encode_message(
      message::Hello{
          .version = message::kVersion, .role = message::Role::kDemand, .name_space = name_space_},
      0, 0, unsent_);
  flush();
}

void DemandLink::send_batch(Batch& batch) {
  std::array<ChunkId, limits::kMaxBatchPages + limits::kMaxBatchRiders> ids;
  auto end = std::ranges::transform(batch.pages, ids.begin(), &WantedPage::chunk).out;
  end = std::ranges::transform(batch.riders, end, &Rider::chunk).out;
  encode_get_chunks({ids.begin(), end}, static_cast<std::uint16_t>(batch.riders.size()),
                    batch.request_id, unsent_);
  batch.sent = Clock::now();
}

void DemandLink::flush() {
  if (sending_operation_.active() || unsent_.empty()) return;
  // Most often that is all: no operation, and no turn of the loop for its end.
  sent_bytes_ = send_at_once(socket_, unsent_);
  std::swap(sending_, unsent_);
  unsent_.clear();
  if (sent_bytes_ == sending_.size()) return;
  loop_.send(socket_, ByteSpan(sending_).subspan(sent_bytes_), sending_operation_);
}

void DemandLink::on_sent(int result) {
  if (state_ == State::kClosing) return finish_losing();
  if (result < 0) return lose(std::strerror(-result));
  sent_bytes_ += static_cast<std::size_t>(result);
  if (sent_bytes_ < sending_.size()) {
    loop_.send(socket_, ByteSpan(sending_).subspan(sent_bytes_), sending_operation_);
    return;
  }
  flush();
}

void DemandLink::on_received(int result) {
  if (state_ == State::kClosing) return finish_losing();
  if (result <= 0) return lose(result == 0 ? "it closed the connection" : std::strerror(-result));
  filled_ += static_cast<std::size_t>(result);
  if (const auto taken = take_messages(); !taken) return lose(taken.error().message());
  loop_.receive(socket_, MutableByteSpan(buffer_).subspan(filled_), receiving_);
  flush();
  offer_room();
}

void DemandLink::offer_room() {
  // Each time another sink comes first, so that none takes all the room that there is. Callbacks
  // may add and drop sinks.
  ++next_sink_;
  for (std::size_t i = 0; i < sinks_.size(); ++i) {
    sinks_[(next_sink_ + i) % sinks_.size()]->on_room();
  }
}

Result<void> DemandLink::take_messages() {
  std::size_t start = 0;
  while (filled_ - start >= kWireHeadBytes) {
    const ByteSpan rest = ByteSpan(buffer_).subspan(start, filled_ - start);
    const WireHead head = TRY(decode_wire_head(rest.first<kWireHeadBytes>()));
    const std::size_t size = kWireHeadBytes + head.header_bytes + head.body_bytes;
    if (head.header_bytes > kMaxReplyHeaderBytes || size > kMaxReplyBytes) {
      return fail(ErrorCode::kTooLarge, "a reply of {} bytes", size);
    }
    if (rest.size() < size) break;
    const ByteSpan header = rest.subspan(kWireHeadBytes, head.header_bytes);
    header_.assign(header.begin(), header.end());
    Envelope envelope = TRY(decode_message(header_));
    TRY(take_message(std::move(envelope),
                     rest.subspan(kWireHeadBytes + head.header_bytes, head.body_bytes)));
    start += size;
  }
  std::memmove(buffer_.data(), buffer_.data() + start, filled_ - start);
  filled_ -= start;
  return {};
}

Result<void> DemandLink::take_message(Envelope envelope, ByteSpan body) {
  const auto* const error = std::get_if<message::ErrorReply>(&envelope.message);
  if (state_ == State::kGreeting) {
    if (error != nullptr) return std::unexpected(from_reply(*error));
    const auto* const welcome = std::get_if<message::Welcome>(&envelope.message);
    if (welcome == nullptr || welcome->version != message::kVersion) {
      return fail(ErrorCode::kBadVersion, "no welcome of version {}", message::kVersion);
    }
    state_ = State::kReady;
    backoff_ = limits::kReconnectFirst;
    if (away_since_ != Clock::time_point{}) {
      log_warning("page server {} is back", server_.text());
      away_since_ = {};
    }
    for (Batch& batch : batches_) {
      if (batch.request_id != 0) send_batch(batch);
    }
    return {};
  }
  const auto batch = std::ranges::find(batches_, envelope.request_id, &Batch::request_id);
  if (envelope.request_id == 0 || batch == batches_.end()) {
    return fail(ErrorCode::kProtocol, "a reply to request {}, which is not outstanding",
                envelope.request_id);
  }
  if (error != nullptr) {
    take_refusal(*batch, from_reply(*error));
    return {};
  }
  const auto* const chunks = std::get_if<message::Chunks>(&envelope.message);
  if (chunks == nullptr) return fail(ErrorCode::kProtocol, "a reply that is no chunks");
  return take_chunks(*batch, *chunks, body);
}

Result<void> DemandLink::take_chunks(Batch& batch, const message::Chunks& chunks, ByteSpan body) {
  const std::size_t most = batch.pages.size() + batch.riders.size();
  if (chunks.count < batch.pages.size() || chunks.count > most) {
    return fail(ErrorCode::kProtocol, "{} chunks where {} to {} were asked for", chunks.count,
                batch.pages.size(), most);
  }
  // The whole reply is looked over before any of it is used: it answers the batch or it does not.
  std::array<std::size_t, limits::kMaxBatchPages + limits::kMaxBatchRiders> sizes;
  ByteSpan rest = body;
  for (std::size_t i = 0; i < chunks.count; ++i) {
    sizes[i] = TRY(chunk_size(rest));
    rest = rest.subspan(sizes[i]);
  }
  if (!rest.empty()) return fail(ErrorCode::kMalformed, "bytes after the last chunk");
  // The sink may ask for more meanwhile: the batch is free when all of it has been told.
  for (std::size_t i = 0; i < most && batch.sink != nullptr; ++i) {
    const bool wanted = i < batch.pages.size();
    const std::size_t rider = i - batch.pages.size();
    if (i >= chunks.count) {
      batch.sink->on_left_out(batch.riders[rider]);
      continue;
    }
    const ByteSpan chunk = body.first(sizes[i]);
    body = body.subspan(sizes[i]);
    if (wanted) {
      batch.sink->on_chunk(batch.pages[i], chunk);
    } else {
      batch.sink->on_rider(batch.riders[rider], chunk);
    }
  }
  if (batch.sink != nullptr) batch.sink->on_batch_end();
  batch.request_id = 0;
  return {};
}

void DemandLink::take_refusal(Batch& batch, const Error& error) {
  ChunkSink* const sink = batch.sink;
  const std::vector<WantedPage> pages = batch.pages;
  const std::vector<Rider> riders = batch.riders;
  batch.request_id = 0;
  if (sink == nullptr) return;
  for (const Rider& rider : riders) sink->on_left_out(rider);
  // One bad chunk fails a whole batch, so each page of it is judged by a request of its own.
  for (WantedPage wanted : pages) {
    if (pages.size() == 1) ++wanted.attempts;
    if (wanted.attempts < limits::kMaxPageAttempts && has_room(*sink)) {
      request(*sink, std::span(&wanted, 1), {});
    } else {
      sink->on_refused(wanted, error);
    }
  }
  sink->on_batch_end();
}

void DemandLink::lose(const std::string& reason) {
  if (!closed_) {
    const auto now = Clock::now();
    if (away_since_ == Clock::time_point{}) away_since_ = now;
    if (now - away_logged_ > kAwayLogInterval) {
      away_logged_ = now;
      log_error("page server {} is away: {}; {} pages wait for it", server_.text(), reason,
                outstanding());
    }
  }
  state_ = State::kClosing;
  // Wakes operations on the socket; a connect that hangs is cancelled.
  shut_down(socket_);
  loop_.cancel(connecting_);
  loop_.cancel(sending_operation_);
  loop_.cancel(receiving_);
  loop_.cancel(timer_);
  finish_losing();
}

void DemandLink::finish_losing() {
  if (connecting_.active() || sending_operation_.active() || receiving_.active() ||
      timer_.active()) {
    return;
  }
  socket_.reset();
  state_ = State::kAway;
  if (closed_) return;
  arm_timer(backoff_);
  backoff_ = std::min<Nanoseconds>(backoff_ * 2, limits::kReconnectMost);
}

void DemandLink::arm_timer(Nanoseconds duration) {
  if (!timer_.active()) loop_.wait(duration, timer_);
}

void DemandLink::on_timer() {
  switch (state_) {
    case State::kClosing:
      return finish_losing();
    case State::kAway:
      if (!closed_ && outstanding() > 0) connect();
      return;
    case State::kConnecting:
    case State::kGreeting:
      return lose("it does not answer");
    case State::kReady:
      break;
  }
  if (outstanding() == 0) return;
  const auto now = Clock::now();
  for (const Batch& batch : batches_) {
    if (batch.request_id != 0 && now - batch.sent > limits::kDemandTimeout) {
      return lose("a request went unanswered");
    }
  }
  arm_timer(limits::kDemandTimeout / 5);
}

void DemandLink::close() {
  closed_ = true;
  lose("the fault handler stops");
}

bool DemandLink::idle() const {
  return !connecting_.active() && !sending_operation_.active() && !receiving_.active() &&
         !timer_.active();
}

}  // namespace thaw
