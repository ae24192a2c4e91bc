#include "faulthandler/demand_link.h"

#include <algorithm>
#include <set>

#include "base/log.h"

namespace thaw {

DemandLink::DemandLink(Loop& loop, const std::vector<ServerAddress>& servers, const Origin& origin)
    : loop_(loop),
      origin_(origin),
      choice_(limits::kMaxServers),
      wrong_stores_(limits::kMaxServers),
      requests_(limits::kMaxServers) {
  set_servers({servers.begin(), servers.end()});
  for (Batch& batch : batches_) {
    batch.pages.reserve(limits::kMaxBatchPages);
    batch.riders.reserve(limits::kMaxBatchRiders);
  }
}

void DemandLink::set_servers(const ServerPlaces& servers) {
  CHECK(servers.size() >= servers_.size() && servers.size() <= limits::kMaxServers);
  DemandServer::Owner& owner = *this;  // a private base: emplace_back may not convert
  for (std::size_t i = 0; i < servers.size(); ++i) {
    if (i == servers_.size()) {
      servers_.emplace_back(loop_, servers[i], origin_, i, owner);
    } else if (!is_same_server(servers_[i].address(), servers[i])) {
      servers_[i].change(servers[i]);
      choice_.forget(i);
      wrong_stores_[i] = 0;
      requests_[i] = 0;
      foreign_.reset(i);
    }
  }
  ++list_;
  for (Batch& batch : batches_) {
    for (WantedPage& page : batch.pages) renew(page);
  }
  if (needs_servers()) open_all();
}

ServerSet DemandLink::vacant() const {
  ServerSet vacant;
  for (std::size_t i = 0; i < servers_.size(); ++i) vacant.set(i, !servers_[i].address());
  return vacant;
}

void DemandLink::renew(WantedPage& wanted) const {
  if (std::exchange(wanted.list, list_) == list_) return;
  wanted.refused_by.reset();
  wanted.attempts = 0;
}

bool DemandLink::waiting() const {
  return std::ranges::any_of(batches_, [](const Batch& batch) { return batch.request_id != 0; });
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
  for (WantedPage& page : batch->pages) renew(page);
  batch->riders.assign(riders.begin(), riders.end());
  batch->request_id = next_request_++;
  batch->asked.reset();
  batch->overdue = 0;
  batch->hedged = false;
  choice_.on_request();
  send(*batch);
  open_all();
}

void DemandLink::open_all() {
  for (DemandServer& server : servers_) server.open();
}

bool DemandLink::needs(SnapshotId snapshot) const {
  return std::ranges::find(sinks_, snapshot, &Entry::snapshot) != sinks_.end();
}

void DemandLink::add(ChunkSink& sink, SnapshotId snapshot) {
  if (!needs(snapshot)) {
    for (DemandServer& server : servers_) server.pin(next_request_++, snapshot);
  }
  const auto entry = std::ranges::find(sinks_, &sink, &Entry::sink);
  if (entry != sinks_.end()) {
    entry->snapshot = snapshot;
  } else {
    sinks_.push_back({&sink, snapshot});
  }
  open_all();
}

void DemandLink::let_go(const ChunkSink& sink) {
  const auto entry = std::ranges::find(sinks_, &sink, &Entry::sink);
  if (entry == sinks_.end()) return;
  const auto snapshot = std::exchange(entry->snapshot, std::nullopt);
  if (!snapshot || needs(*snapshot)) return;
  for (DemandServer& server : servers_) server.unpin(next_request_++, *snapshot);
}

bool DemandLink::has_pinned(SnapshotId snapshot) const {
  bool any = false;
  for (const DemandServer& server : servers_) {
    if (!server.ready()) continue;
    if (!server.has_answered(snapshot)) return false;
    any = true;
  }
  return any;
}

bool DemandLink::needs_servers() const {
  const auto needs_snapshot = [](const Entry& entry) { return entry.snapshot.has_value(); };
  return waiting() || std::ranges::any_of(sinks_, needs_snapshot);
}

void DemandLink::forget(const ChunkSink& sink) {
  for (Batch& batch : batches_) {
    if (batch.sink == &sink) drop(batch);
  }
  const auto entry = std::ranges::find(sinks_, &sink, &Entry::sink);
  if (entry == sinks_.end()) return;
  let_go(sink);
  sinks_.erase(entry);
}

void DemandLink::serve(const Origin& origin) {
  origin_ = origin;
  for (DemandServer& server : servers_) server.serve(origin);
}

void DemandLink::close() {
  closed_ = true;
  loop_.cancel(lateness_);
  for (DemandServer& server : servers_) server.close();
}

bool DemandLink::idle() const {
  return !lateness_.active() && std::ranges::all_of(servers_, &DemandServer::idle);
}

/// What was asked is still answered.
void DemandLink::drop(Batch& batch) {
  batch.sink = nullptr;
  if (batch.asked.none()) batch.request_id = 0;
}

DemandLink::Batch* DemandLink::free_batch() {
  const auto found = std::ranges::find(batches_, std::uint64_t{0}, &Batch::request_id);
  return found == batches_.end() ? nullptr : &*found;
}

std::size_t DemandLink::unasked_pages() const {
  std::size_t pages = 0;
  for (const Batch& batch : batches_) {
    if (batch.request_id != 0 && batch.asked.none()) pages += batch.pages.size();
  }
  return pages;
}

void DemandLink::send(Batch& batch) {
  if (send_elsewhere(batch) || batch.asked.any()) return;
  // One that has refused it may have been mistaken.
  if (batch.pages.front().attempts >= limits::kMaxPageAttempts) return;
  if (const auto server = choice_.pick(full(), Clock::now())) send_to(*server, batch);
}

ServerSet DemandLink::full() const {
  ServerSet full;
  for (std::size_t i = 0; i < servers_.size(); ++i) full.set(i, !servers_[i].has_room());
  return full;
}

bool DemandLink::send_elsewhere(Batch& batch) {
  const ServerSet except = batch.asked | batch.pages.front().refused_by | full();
  const auto server = choice_.pick(except, Clock::now());
  if (server) send_to(*server, batch);
  return server.has_value();
}

void DemandLink::send_to(std::size_t server, Batch& batch) {
  std::array<ChunkId, limits::kMaxBatchPages + limits::kMaxBatchRiders> ids;
  auto end = std::ranges::transform(batch.pages, ids.begin(), &WantedPage::chunk).out;
  end = std::ranges::transform(batch.riders, end, &Rider::chunk).out;
  if (batch.asked.none()) batch.first = server;
  batch.asked.set(server);
  batch.sent = Clock::now();
  ++requests_[server];
  servers_[server].ask(batch.request_id, {ids.begin(), end}, batch.riders.size(),
                       batch.pages.size());
  if (servers_.size() > 1) expect(due(batch));
}

void DemandLink::send_unasked() {
  for (Batch& batch : batches_) {
    if (batch.request_id != 0 && batch.asked.none()) send(batch);
  }
}

Clock::time_point DemandLink::due(const Batch& batch) const {
  if (!batch.hedged) return batch.sent + choice_.hedge_after(batch.first);
  return batch.sent + limits::kRequestDeadline * (1u << std::min(batch.overdue, 4u));
}

void DemandLink::expect(Clock::time_point late) {
  if (closed_) return;
  if (lateness_.active()) {
    // Comes back at once.
    if (late < late_look_) loop_.cancel(lateness_);
    return;
  }
  late_look_ = late;
  const Nanoseconds rest = late - Clock::now();
  loop_.wait(std::max<Nanoseconds>(rest, limits::kHedgeFloor / 2), lateness_);
}

void DemandLink::on_late_timer() {
  const auto now = Clock::now();
  std::optional<Clock::time_point> next;
  for (Batch& batch : batches_) {
    if (batch.sink == nullptr || batch.request_id == 0 || batch.asked.none()) continue;
    if (now >= due(batch)) hurry(batch, now);
    next = std::min(next.value_or(due(batch)), due(batch));
  }
  if (next) expect(*next);
}

void DemandLink::hurry(Batch& batch, Clock::time_point now) {
  if (!std::exchange(batch.hedged, true)) {
    if (choice_.take_hedge() && send_elsewhere(batch)) ++hedges_;
    return;
  }
  ++batch.overdue;
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    if (batch.asked[i]) choice_.on_overdue(i, now);
  }
  if (!send_elsewhere(batch)) batch.sent = now;
}

void DemandLink::on_replies_end() {
  if (servers_.size() > 1) send_unasked();
  // Each time another sink comes first, so that none takes all the room that there is. Callbacks
  // may add and drop sinks.
  ++next_sink_;
  for (std::size_t i = 0; i < sinks_.size(); ++i) {
    sinks_[(next_sink_ + i) % sinks_.size()].sink->on_room();
  }
}

void DemandLink::on_server_ready(std::size_t server) {
  wrong_stores_[server] = 0;
  foreign_.reset(server);
  choice_.on_ready(server);
  std::set<SnapshotId> pinned;
  for (const Entry& entry : sinks_) {
    if (entry.snapshot && pinned.insert(*entry.snapshot).second) {
      servers_[server].pin(next_request_++, *entry.snapshot);
    }
  }
  send_unasked();
}

void DemandLink::on_server_lost(std::size_t server) {
  choice_.on_lost(server, Clock::now());
  for (Batch& batch : batches_) {
    if (batch.request_id == 0 || !batch.asked[server]) continue;
    batch.asked.reset(server);
    if (batch.asked.any()) continue;
    if (batch.sink == nullptr || closed_) {
      drop(batch);
    } else {
      send(batch);
    }
  }
}

ServerReport DemandLink::report(std::size_t server) const {
  const auto now = Clock::now();
  ServerReport report;
  report.address = servers_[server].address()->text();
  report.requests = requests_[server];
  if (const auto since = servers_[server].away_since()) {
    report.state = ServerState::kAway;
    report.away_ms = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(now - *since).count());
  } else if (choice_.is_ready(server)) {
    report.state = choice_.is_left(server, now) ? ServerState::kSlow : ServerState::kUp;
  }
  return report;
}

}  // namespace thaw
