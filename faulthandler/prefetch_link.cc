#include "faulthandler/prefetch_link.h"

#include <algorithm>

#include "format/limits.h"

namespace thaw {

namespace {

constexpr std::size_t kMostPieceReplyBytes =
    kWireHeadBytes + limits::kMaxReplyHeaderBytes + limits::kMaxPackBytes;
/// About what a chunk takes, for batches whose size nobody knows before.
constexpr std::size_t kUsualChunkBytes = 1500;

}  // namespace

PrefetchLink::PrefetchLink(Loop& loop, const std::vector<ServerAddress>& servers, Origin origin,
                           DemandLink& demand)
    : demand_(demand),
      servers_(servers.begin(), servers.end()),
      connection_(loop, std::move(origin),
                  {.server = servers_.empty() ? std::nullopt : servers_.front(),
                   .role = message::Role::kPrefetch,
                   .send_bytes = 0,
                   .most_reply_bytes = kMostPieceReplyBytes,
                   .buffers = limits::kPrefetchBuffers,
                   .buffer_bytes = limits::kPrefetchBufferBytes},
                  *this) {
  static_assert(limits::kPrefetchBufferBytes >= kMostPieceReplyBytes);
  loop.keep_at_hand(connection_.memory());
}

void PrefetchLink::add(Sink& sink) {
  sinks_.push_back(&sink);
  connection_.open();
}

void PrefetchLink::forget(const Sink& sink) {
  std::erase(sinks_, &sink);
  for (Request& request : requests_) {
    if (request.sink == &sink) request.sink = nullptr;
  }
}

bool PrefetchLink::has_room() const {
  if (!connection_.ready()) return false;
  if (demand_.waiting()) {
    if (requests_.size() != 1) return requests_.empty();
    // Asked for when the one before has come wholly, the link would lie idle for a round trip.
    return connection_.partial_bytes() * 2 >= requests_.front().bytes;
  }
  return bytes_ahead_ < limits::kPrefetchWindowBytes;
}

void PrefetchLink::request_pack(Sink& sink, PrefetchJob& job, std::uint32_t bytes) {
  const auto& [snapshot, generation, number] = *job.pack;
  send(sink, job, message::GetPack{snapshot, generation, number}, bytes);
}

void PrefetchLink::request_chunks(Sink& sink, PrefetchJob& job) {
  message::GetChunks get;
  for (const PackPage& page : job.pages) get.ids.push_back(page.chunk);
  send(sink, job, get, get.ids.size() * kUsualChunkBytes);
}

void PrefetchLink::send(Sink& sink, PrefetchJob& job, const Message& request, std::size_t bytes) {
  requests_.push_back({next_request_++, &sink, &job, bytes, Clock::now()});
  bytes_ahead_ += bytes;
  encode_message(request, requests_.back().id, 0, connection_.outbox());
  connection_.flush();
}

Result<void> PrefetchLink::on_reply(Envelope reply, ByteSpan body) {
  const auto found = std::ranges::find(requests_, reply.request_id, &Request::id);
  if (found == requests_.end()) {
    return fail(ErrorCode::kProtocol, "a reply to request {}, which is not outstanding",
                reply.request_id);
  }
  const auto* const error = std::get_if<message::ErrorReply>(&reply.message);
  if (error == nullptr && !std::holds_alternative<message::PackReply>(reply.message) &&
      !std::holds_alternative<message::Chunks>(reply.message)) {
    // It is lost with the connection, like all that were not answered.
    return fail(ErrorCode::kProtocol, "a reply that is neither a pack nor chunks");
  }
  const Request request = *found;
  requests_.erase(found);
  bytes_ahead_ -= request.bytes;
  if (error != nullptr) {
    const Error refused = from_reply(*error);
    if (request.sink != nullptr && refused.code() == ErrorCode::kCorrupt) {
      report_damage(*request.job);
    }
    if (may_try_elsewhere()) {
      if (request.sink != nullptr) request.sink->on_lost(*request.job);
      return std::unexpected(refused);
    }
    if (request.sink != nullptr) request.sink->on_refused(*request.job, refused);
    return {};
  }
  if (request.sink != nullptr) request.sink->on_prefetched(*request.job, body);
  return {};
}

void PrefetchLink::on_lost() {
  const std::vector<Request> lost = std::move(requests_);
  requests_.clear();
  bytes_ahead_ = 0;
  for (const Request& request : lost) {
    if (request.sink != nullptr) request.sink->on_lost(*request.job);
  }
  move_on();
}

void PrefetchLink::move_on() {
  const auto preferred = demand_.preferred();
  const std::size_t first = preferred && *preferred != server_ ? *preferred : server_ + 1;
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    const std::size_t server = (first + i) % servers_.size();
    if (!servers_[server]) continue;
    server_ = server;
    if (is_same_server(connection_.server(), servers_[server])) return;
    return connection_.move_to(servers_[server]);
  }
  connection_.move_to(std::nullopt);
}

void PrefetchLink::set_servers(const ServerPlaces& servers) {
  servers_ = servers;
  const bool has_place = server_ < servers_.size() && servers_[server_];
  if (has_place && !connection_.server()) {
    connection_.move_to(servers_[server_]);
  } else if (!has_place || !is_same_server(connection_.server(), servers_[server_])) {
    connection_.leave("it is no page server of this host any more");
    move_on();
  }
  if (needs_connection()) connection_.open();
}

bool PrefetchLink::may_try_elsewhere() {
  const auto now = Clock::now();
  if (servers_.size() == 1 || now < next_try_) return false;
  next_try_ = now + limits::kServerPauseMost;
  return true;
}

void PrefetchLink::report_damage(const PrefetchJob& job) {
  if (job.pack) {
    demand_.note_damage({.packs = {&*job.pack, 1}});
  } else {
    // One of them is; which one the server finds out.
    std::vector<ChunkId> chunks;
    for (const PackPage& page : job.pages) chunks.push_back(page.chunk);
    demand_.note_damage({.chunks = chunks});
  }
}

bool PrefetchLink::note_damage(const PrefetchJob& job) {
  report_damage(job);
  if (!may_try_elsewhere()) return false;
  connection_.leave("it brings what is no good");
  return true;
}

std::size_t PrefetchLink::outstanding() const {
  std::size_t pages = 0;
  for (const Request& request : requests_) {
    // One that nobody waits for any more has to be answered all the same.
    pages += request.sink != nullptr ? request.job->pages.size() : 1;
  }
  return pages;
}

bool PrefetchLink::overdue(Clock::time_point now) const {
  return std::ranges::any_of(requests_, [&](const Request& request) {
    return now - request.sent > limits::kDemandTimeout;
  });
}

void PrefetchLink::offer_room() {
  // Each time another sink comes first, so that none takes all the room that there is. Callbacks
  // may drop sinks.
  ++next_sink_;
  const std::vector<Sink*> sinks = sinks_;
  for (std::size_t i = 0; i < sinks.size() && has_room(); ++i) {
    Sink* const sink = sinks[(next_sink_ + i) % sinks.size()];
    if (std::ranges::find(sinks_, sink) != sinks_.end()) sink->on_room();
  }
}

}  // namespace thaw
