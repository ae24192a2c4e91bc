#include "faulthandler/demand_server.h"

#include <algorithm>

#include "base/log.h"

namespace thaw {

namespace {

constexpr std::size_t kMostBatchReplyBytes =
    kWireHeadBytes + limits::kMaxReplyHeaderBytes +
    (limits::kMaxBatchPages + limits::kMaxBatchRiders) * kMaxChunkBytes;
constexpr std::size_t kSendBytes = limits::kMaxBatches * 1280;

}  // namespace

DemandServer::DemandServer(Loop& loop, const std::optional<ServerAddress>& address, Origin origin,
                           std::size_t number, Owner& owner)
    : number_(number),
      owner_(owner),
      connection_(loop, std::move(origin),
                  {.server = address,
                   .role = message::Role::kDemand,
                   .send_bytes = kSendBytes,
                   .most_reply_bytes = kMostBatchReplyBytes,
                   .buffers = 1,
                   .buffer_bytes = kMostBatchReplyBytes},
                  *this) {
  asked_.reserve(limits::kMaxUnanswered);
}

void DemandServer::ask(std::uint64_t request, std::span<const ChunkId> chunks, std::size_t optional,
                       std::size_t pages) {
  asked_.push_back({request, pages, Clock::now()});
  encode_get_chunks(chunks, static_cast<std::uint16_t>(optional), request, connection_.outbox());
  connection_.flush();
}

void DemandServer::pin(std::uint64_t request, SnapshotId snapshot) {
  send_pin(message::Pin{snapshot}, request, snapshot);
}

void DemandServer::unpin(std::uint64_t request, SnapshotId snapshot) {
  send_pin(message::Unpin{snapshot}, request, snapshot);
}

/// Without a connection nothing is pinned, and when there is one the owner pins what it needs.
void DemandServer::send_pin(const Message& message, std::uint64_t request, SnapshotId snapshot) {
  if (!connection_.ready()) return;
  pin_requests_.push_back({request, snapshot});
  encode_message(message, request, 0, connection_.outbox());
  connection_.flush();
}

void DemandServer::take_pin_reply(std::vector<PinRequest>::iterator request, const Message& reply) {
  if (const auto* const error = std::get_if<message::ErrorReply>(&reply)) {
    log_warning(LogKind("pins", from_reply(*error)),
                "snapshot {} may be deleted at {} while it is restored: {}",
                request->snapshot.value, address()->text(), from_reply(*error).message());
  }
  pin_requests_.erase(request);
}

Result<void> DemandServer::on_reply(Envelope envelope, ByteSpan body) {
  const auto pin = std::ranges::find(pin_requests_, envelope.request_id, &PinRequest::id);
  if (pin != pin_requests_.end()) {
    take_pin_reply(pin, envelope.message);
    return {};
  }
  const auto asked = std::ranges::find(asked_, envelope.request_id, &Asked::request);
  if (asked == asked_.end()) {
    return fail(ErrorCode::kProtocol, "a reply to request {}, which is not outstanding",
                envelope.request_id);
  }
  const Nanoseconds took = Clock::now() - asked->sent;
  asked_.erase(asked);
  return owner_.on_reply(number_, envelope, body, took);
}

void DemandServer::on_lost() {
  asked_.clear();
  pin_requests_.clear();
  owner_.on_server_lost(number_);
}

std::size_t DemandServer::outstanding() const {
  std::size_t pages = owner_.unasked_pages();
  for (const Asked& asked : asked_) pages += asked.pages;
  return pages;
}

bool DemandServer::overdue(Clock::time_point now) const {
  return std::ranges::any_of(
      asked_, [&](const Asked& asked) { return now - asked.sent > limits::kDemandTimeout; });
}

}  // namespace thaw
