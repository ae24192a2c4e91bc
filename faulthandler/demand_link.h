#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "faulthandler/chunk_sink.h"
#include "faulthandler/damage.h"
#include "faulthandler/demand_server.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
#include "faulthandler/server_choice.h"
#include "faulthandler/server_places.h"
#include "format/chunk.h"
#include "format/control.h"

namespace thaw {

/// The demand connections to the page servers of one origin, shared by the sessions of a loop. A
/// request goes to one server; to a second one if the first is slow, and the first reply counts.
/// When a server goes away, what it was asked goes to another; when all are away, everything that
/// is outstanding is asked for once one is back, so that guests wait and lose nothing. A server
/// that comes back with another store has none of these pages: met again and again, it is an
/// answer. Each server has the snapshots pinned, since only the one that owns the store can keep
/// them, and a second one is asked without having to be greeted first. One thread.
class DemandLink final : private DemandServer::Owner {
 public:
  /// REQUIRES: at most limits::kMaxServers servers.
  DemandLink(Loop& loop, const std::vector<ServerAddress>& servers, const Origin& origin);
  DemandLink(const DemandLink&) = delete;
  DemandLink& operator=(const DemandLink&) = delete;
  ~DemandLink() = default;

  /// From now on these are the servers. What a page was refused for counts no more: another server
  /// may have it. REQUIRES: at most limits::kMaxServers, and not fewer than before.
  void set_servers(const ServerPlaces& servers);
  bool is_ready(std::size_t server) const {
    return server < servers_.size() && servers_[server].ready();
  }

  /// Whether anybody waits for a reply.
  bool waiting() const;
  /// Whether request() has room for another batch of this sink's.
  bool has_room(const ChunkSink& sink) const;
  /// Asks for pages in one request, and for riders. REQUIRES: has_room(), at least one and at most
  /// limits::kMaxBatchPages pages, at most limits::kMaxBatchRiders riders; a page that was refused
  /// is asked for alone.
  void request(ChunkSink& sink, std::span<const WantedPage> pages, std::span<const Rider> riders);
  /// Drops what the sink has asked for, and its pin; it must also not be called from the sink's own
  /// callbacks.
  void forget(const ChunkSink& sink);
  /// Announces a sink and connects, so that its first fault finds the connection made. The page
  /// servers keep the snapshot until the last sink that needs it is forgotten.
  void add(ChunkSink& sink, SnapshotId snapshot);
  /// A sink that was added does not need its snapshot for now; what it has asked for comes all the
  /// same. add() again takes it back.
  void let_go(const ChunkSink& sink);

  /// Whether the servers that are there have been told to keep the snapshot, and have answered.
  /// REQUIRES: a sink of it was added.
  bool has_pinned(SnapshotId snapshot) const;

  /// Calls `look` with each page that this sink waits for.
  template <typename Look>
  void for_each_page(const ChunkSink& sink, Look look) const {
    for (const Batch& batch : batches_) {
      if (batch.request_id != 0 && batch.sink == &sink) std::ranges::for_each(batch.pages, look);
    }
  }

  /// Has `tell` called with what a server has brought damaged.
  using TellDamage = std::function<void(const Damage& damage)>;
  void on_damage(TellDamage tell) { tell_damage_ = std::move(tell); }
  void note_damage(const Damage& damage) const {
    if (tell_damage_) tell_damage_(damage);
  }

  /// Which server would be asked now; nothing: none is there.
  std::optional<std::size_t> preferred() { return choice_.pick({}, Clock::now()); }
  /// How the server does.
  ServerReport report(std::size_t server) const;
  /// Requests that went to a second server because the first was slow.
  std::uint64_t hedges() const { return hedges_; }

  /// Whether nobody has anything to do with it.
  bool unused() const { return sinks_.empty() && !waiting(); }
  /// From now on it is for another origin. REQUIRES: unused().
  void serve(const Origin& origin);

  /// Ends it; may be destroyed once idle().
  void close();
  bool idle() const;

 private:
  struct Batch {
    ChunkSink* sink = nullptr;  // nullptr: nobody waits for it any more
    std::vector<WantedPage> pages;
    std::vector<Rider> riders;
    std::uint64_t request_id = 0;  // 0: free
    ServerSet asked;               // who has not answered yet
    std::size_t first = 0;         // who was asked first
    unsigned overdue = 0;          // deadlines that have passed
    bool hedged = false;           // as far as that is allowed
    Clock::time_point sent;        // the last time
  };
  struct Entry {
    ChunkSink* sink;
    std::optional<SnapshotId> snapshot;  // nothing: none for now
  };
  void on_server_ready(std::size_t server) override;
  void on_server_lost(std::size_t server) override;
  void on_wrong_store(std::size_t server, const Error& error) override;
  Result<void> on_reply(std::size_t server, const Envelope& reply, ByteSpan body,
                        Nanoseconds took) override;
  void on_replies_end() override;
  /// Whoever is served from a snapshot needs its pin, which a lost connection takes along.
  bool needs_servers() const override;
  std::size_t unasked_pages() const override;

  bool needs(SnapshotId snapshot) const;
  /// Numbers that have no server now.
  ServerSet vacant() const;
  /// Forgets what the servers before have said of it.
  void renew(WantedPage& wanted) const;
  void open_all();
  /// Sends it to the best server; it waits where there is none.
  void send(Batch& batch);
  void send_to(std::size_t server, Batch& batch);
  void send_unasked();
  /// Servers that have not answered as much as they may be asked.
  ServerSet full() const;
  /// Sends it to one that has neither been asked nor refused; false: there is none.
  bool send_elsewhere(Batch& batch);
  /// When it is to be sent to another server.
  Clock::time_point due(const Batch& batch) const;
  /// Has on_late_timer() called at this time, or before.
  void expect(Clock::time_point late);
  void on_late_timer();
  void hurry(Batch& batch, Clock::time_point now);
  void drop(Batch& batch);
  Result<void> take_chunks(std::size_t server, Batch& batch, const message::Chunks& chunks,
                           ByteSpan body);
  void tell_chunk(std::size_t server, Batch& batch, std::size_t number, ByteSpan chunk);
  void take_refusal(Batch& batch, const Error& error);
  Refusal judge(const WantedPage& wanted) const;
  Batch* free_batch();

  Loop& loop_;
  Origin origin_;
  unsigned list_ = 0;  // of servers: how often it has changed
  TellDamage tell_damage_;
  std::vector<Entry> sinks_;
  std::array<Batch, limits::kMaxBatches> batches_;
  std::uint64_t next_request_ = 1;
  std::size_t next_sink_ = 0;  // who is offered room first
  ServerChoice choice_;
  std::vector<unsigned> wrong_stores_;   // by server: met since it was last there
  ServerSet foreign_;                    // who was met so with another store again and again
  std::vector<std::uint64_t> requests_;  // by server
  std::uint64_t hedges_ = 0;
  bool closed_ = false;
  Clock::time_point late_look_;
  Operation lateness_{[this](int) { on_late_timer(); }};
  std::deque<DemandServer> servers_;  // which do not move
};

}  // namespace thaw
