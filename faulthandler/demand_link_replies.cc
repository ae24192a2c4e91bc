// What page servers answer, and what becomes of a page that one of them refuses.

#include <algorithm>
#include <array>

#include "faulthandler/demand_link.h"

namespace thaw {

Result<void> DemandLink::on_reply(std::size_t server, const Envelope& envelope, ByteSpan body,
                                  Nanoseconds took) {
  choice_.on_reply(server, took);
  const auto batch = std::ranges::find(batches_, envelope.request_id, &Batch::request_id);
  if (batch == batches_.end()) return {};  // another server was quicker
  if (const auto* const error = std::get_if<message::ErrorReply>(&envelope.message)) {
    batch->asked.reset(server);
    // One bad chunk fails a whole batch, so that says something of a page that was alone. A server
    // that finds its own copy damaged may be a replica: the owner of the store must be told.
    if (batch->pages.size() == 1) {
      if (from_reply(*error).code() == ErrorCode::kCorrupt) {
        note_damage({.chunks = {&batch->pages.front().chunk, 1}});
      }
      ++batch->pages.front().attempts;
      batch->pages.front().refused_by.set(server);
    }
    if (batch->asked.none()) take_refusal(*batch, from_reply(*error));
    return {};
  }
  const auto* const chunks = std::get_if<message::Chunks>(&envelope.message);
  if (chunks == nullptr) return fail(ErrorCode::kProtocol, "a reply that is no chunks");
  return take_chunks(server, *batch, *chunks, body);
}

Result<void> DemandLink::take_chunks(std::size_t server, Batch& batch,
                                     const message::Chunks& chunks, ByteSpan body) {
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
  if (server != batch.first && batch.asked[batch.first]) {
    choice_.on_outpaced(batch.first, Clock::now());
  }
  // The sink may ask for more meanwhile: the batch is free when all of it has been told.
  for (std::size_t i = 0; i < most && batch.sink != nullptr; ++i) {
    if (i >= chunks.count) {
      batch.sink->on_left_out(batch.riders[i - batch.pages.size()]);
      continue;
    }
    tell_chunk(server, batch, i, body.first(sizes[i]));
    body = body.subspan(sizes[i]);
  }
  if (batch.sink != nullptr) batch.sink->on_batch_end();
  batch.request_id = 0;
  return {};
}

void DemandLink::tell_chunk(std::size_t server, Batch& batch, std::size_t number, ByteSpan chunk) {
  if (number >= batch.pages.size()) {
    const Rider& rider = batch.riders[number - batch.pages.size()];
    if (!batch.sink->on_rider(rider, chunk)) note_damage({.chunks = {&rider.chunk, 1}});
    return;
  }
  const auto good = batch.sink->on_chunk(batch.pages[number], chunk);
  if (good || batch.sink == nullptr) return;
  WantedPage wanted = batch.pages[number];
  note_damage({.chunks = {&wanted.chunk, 1}});
  ++wanted.attempts;
  wanted.refused_by.set(server);
  batch.sink->on_refused(wanted, good.error(), judge(wanted));
}

Refusal DemandLink::judge(const WantedPage& wanted) const {
  if (wanted.attempts < limits::kMaxPageAttempts) return Refusal::kAskAgain;
  const ServerSet none = wanted.refused_by | foreign_ | vacant();
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    if (!none[i] && choice_.is_ready(i)) return Refusal::kAskAgain;
  }
  return none.count() == servers_.size() ? Refusal::kForGood : Refusal::kForNow;
}

void DemandLink::take_refusal(Batch& batch, const Error& error) {
  ChunkSink* const sink = batch.sink;
  const std::vector<WantedPage> pages = batch.pages;
  const std::vector<Rider> riders = batch.riders;
  batch.request_id = 0;
  if (sink == nullptr) return;
  for (const Rider& rider : riders) sink->on_left_out(rider);
  // Each page is judged by a request of its own, unless it has been judged.
  for (const WantedPage& wanted : pages) {
    const Refusal refusal = judge(wanted);
    if (refusal == Refusal::kAskAgain && has_room(*sink)) {
      request(*sink, std::span(&wanted, 1), {});
    } else {
      sink->on_refused(wanted, error, refusal);
    }
  }
  sink->on_batch_end();
}

void DemandLink::on_wrong_store(std::size_t server, const Error& error) {
  if (++wrong_stores_[server] < limits::kMaxPageAttempts) return;
  foreign_.set(server);
  for (Batch& batch : batches_) {
    if (batch.request_id == 0 || batch.asked.any()) continue;
    if ((foreign_ | vacant() | batch.pages.front().refused_by).count() < servers_.size()) continue;
    for (WantedPage& wanted : batch.pages) wanted.attempts = limits::kMaxPageAttempts;
    take_refusal(batch, error);
  }
}

}  // namespace thaw
