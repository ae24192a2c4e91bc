#include "faulthandler/demand_link.h"

#include <algorithm>
#include <set>

#include "base/log.h"

namespace thaw {

namespace {

constexpr std::size_t kMostReplyBytes =
    kWireHeadBytes + limits::kMaxReplyHeaderBytes +
    (limits::kMaxBatchPages + limits::kMaxBatchRiders) * kMaxChunkBytes;
constexpr std::size_t kSendBytes = limits::kMaxBatches * 1280;

}  // namespace

DemandLink::DemandLink(Loop& loop, ServerAddress server, Origin origin)
    : connection_(loop, std::move(origin),
                  {.server = std::move(server),
                   .role = message::Role::kDemand,
                   .send_bytes = kSendBytes,
                   .most_reply_bytes = kMostReplyBytes,
                   .buffers = 1,
                   .buffer_bytes = kMostReplyBytes},
                  *this) {
  for (Batch& batch : batches_) {
    batch.pages.reserve(limits::kMaxBatchPages);
    batch.riders.reserve(limits::kMaxBatchRiders);
  }
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
  if (connection_.ready()) {
    send_batch(*batch);
    connection_.flush();
  }
  connection_.open();
}

bool DemandLink::needs(SnapshotId snapshot) const {
  return std::ranges::find(sinks_, snapshot, &Entry::snapshot) != sinks_.end();
}

void DemandLink::add(ChunkSink& sink, SnapshotId snapshot) {
  if (!needs(snapshot)) send_pin(message::Pin{snapshot}, snapshot);
  const auto entry = std::ranges::find(sinks_, &sink, &Entry::sink);
  if (entry != sinks_.end()) {
    entry->snapshot = snapshot;
  } else {
    sinks_.push_back({&sink, snapshot});
  }
  connection_.open();
}

void DemandLink::let_go(const ChunkSink& sink) {
  const auto entry = std::ranges::find(sinks_, &sink, &Entry::sink);
  if (entry == sinks_.end()) return;
  const auto snapshot = std::exchange(entry->snapshot, std::nullopt);
  if (snapshot && !needs(*snapshot)) send_pin(message::Unpin{*snapshot}, *snapshot);
}

bool DemandLink::needs_connection() const {
  const auto needs_snapshot = [](const Entry& entry) { return entry.snapshot.has_value(); };
  return waiting() || std::ranges::any_of(sinks_, needs_snapshot);
}

void DemandLink::forget(const ChunkSink& sink) {
  for (Batch& batch : batches_) {
    if (batch.sink == &sink) batch.sink = nullptr;
  }
  const auto entry = std::ranges::find(sinks_, &sink, &Entry::sink);
  if (entry == sinks_.end()) return;
  let_go(sink);
  sinks_.erase(entry);
}

/// Without a connection nothing is pinned, and on_ready() pins what is needed.
void DemandLink::send_pin(const Message& message, SnapshotId snapshot) {
  if (!connection_.ready()) return;
  pin_requests_.push_back({next_request_++, snapshot});
  encode_message(message, pin_requests_.back().id, 0, connection_.outbox());
  connection_.flush();
}

void DemandLink::take_pin_reply(std::vector<PinRequest>::iterator request, const Message& reply) {
  if (const auto* const error = std::get_if<message::ErrorReply>(&reply)) {
    log_warning("snapshot {} may be deleted while it is restored: {}", request->snapshot.value,
                from_reply(*error).message());
  }
  pin_requests_.erase(request);
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

void DemandLink::send_batch(Batch& batch) {
  std::array<ChunkId, limits::kMaxBatchPages + limits::kMaxBatchRiders> ids;
  auto end = std::ranges::transform(batch.pages, ids.begin(), &WantedPage::chunk).out;
  end = std::ranges::transform(batch.riders, end, &Rider::chunk).out;
  encode_get_chunks({ids.begin(), end}, static_cast<std::uint16_t>(batch.riders.size()),
                    batch.request_id, connection_.outbox());
  batch.sent = Clock::now();
}

void DemandLink::on_replies_end() {
  // Each time another sink comes first, so that none takes all the room that there is. Callbacks
  // may add and drop sinks.
  ++next_sink_;
  for (std::size_t i = 0; i < sinks_.size(); ++i) {
    sinks_[(next_sink_ + i) % sinks_.size()].sink->on_room();
  }
}

void DemandLink::on_ready() {
  wrong_stores_ = 0;
  std::set<SnapshotId> pinned;
  for (const Entry& entry : sinks_) {
    if (entry.snapshot && pinned.insert(*entry.snapshot).second) {
      send_pin(message::Pin{*entry.snapshot}, *entry.snapshot);
    }
  }
  for (Batch& batch : batches_) {
    if (batch.request_id != 0) send_batch(batch);
  }
}

void DemandLink::on_wrong_store(const Error& error) {
  if (++wrong_stores_ < limits::kMaxPageAttempts) return;
  for (Batch& batch : batches_) {
    if (batch.request_id == 0) continue;
    for (WantedPage& wanted : batch.pages) wanted.attempts = limits::kMaxPageAttempts;
    take_refusal(batch, error);
  }
}

bool DemandLink::overdue(Clock::time_point now) const {
  return std::ranges::any_of(batches_, [&](const Batch& batch) {
    return batch.request_id != 0 && now - batch.sent > limits::kDemandTimeout;
  });
}

Result<void> DemandLink::on_reply(Envelope envelope, ByteSpan body) {
  const auto pin = std::ranges::find(pin_requests_, envelope.request_id, &PinRequest::id);
  if (pin != pin_requests_.end()) {
    take_pin_reply(pin, envelope.message);
    return {};
  }
  const auto batch = std::ranges::find(batches_, envelope.request_id, &Batch::request_id);
  if (envelope.request_id == 0 || batch == batches_.end()) {
    return fail(ErrorCode::kProtocol, "a reply to request {}, which is not outstanding",
                envelope.request_id);
  }
  if (const auto* const error = std::get_if<message::ErrorReply>(&envelope.message)) {
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
  // One bad chunk fails a whole batch, so each page of it is judged by a request of its own, unless
  // it has been judged.
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

}  // namespace thaw
