#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
#include "faulthandler/server_connection.h"
#include "format/chunk.h"

namespace thaw {

/// A page that a vCPU waits for.
struct WantedPage {
  PageIndex page;
  ChunkId chunk;
  Clock::time_point since;  // when its fault was read
  unsigned attempts = 0;    // replies to it that were no good
};

/// A page that rides along with wanted ones if the server has it at hand.
struct Rider {
  PageIndex page;
  ChunkId chunk;
};

/// Who asked for pages, and is told of each exactly once unless it is forgotten before.
class ChunkSink {
 public:
  /// The stored form of the page's chunk, unverified; valid during the call.
  virtual void on_chunk(const WantedPage& wanted, ByteSpan chunk) = 0;
  virtual void on_rider(const Rider& rider, ByteSpan chunk) = 0;
  /// The page server answers, but not with this chunk; `attempts` counts such answers.
  virtual void on_refused(const WantedPage& wanted, const Error& error) = 0;
  virtual void on_left_out(const Rider& rider) = 0;
  /// What one request asked for has been told.
  virtual void on_batch_end() = 0;
  /// There is room for requests again.
  virtual void on_room() = 0;

 protected:
  ~ChunkSink() = default;
};

/// The demand connection to one page server for one origin, shared by the sessions of a loop. When
/// the server goes away, everything that is outstanding is asked for again once it is back, so that
/// guests wait and lose nothing. One that comes back with another store has none of these pages:
/// met again and again, it is an answer, and they are refused. One thread.
class DemandLink final : private ServerConnection::User {
 public:
  DemandLink(Loop& loop, ServerAddress server, Origin origin);
  DemandLink(const DemandLink&) = delete;
  DemandLink& operator=(const DemandLink&) = delete;
  ~DemandLink() = default;

  /// Whether anybody waits for a reply.
  bool waiting() const { return outstanding() > 0; }
  /// Whether request() has room for another batch of this sink's.
  bool has_room(const ChunkSink& sink) const;
  /// Asks for pages in one request, and for riders. REQUIRES: has_room(), at least one and at most
  /// limits::kMaxBatchPages pages, at most limits::kMaxBatchRiders riders.
  void request(ChunkSink& sink, std::span<const WantedPage> pages, std::span<const Rider> riders);
  /// Drops what the sink has asked for, and its pin; it must also not be called from the sink's own
  /// callbacks.
  void forget(const ChunkSink& sink);
  /// Announces a sink and connects, so that its first fault finds the connection made. The page
  /// server keeps the snapshot until the last sink that needs it is forgotten.
  void add(ChunkSink& sink, SnapshotId snapshot);
  /// A sink that was added does not need its snapshot for now; what it has asked for comes all the
  /// same. add() again takes it back.
  void let_go(const ChunkSink& sink);

  /// Whether nobody has anything to do with it.
  bool unused() const { return sinks_.empty() && !waiting(); }
  /// From now on it is for another origin. REQUIRES: unused().
  void serve(const Origin& origin) { connection_.serve(origin); }

  /// Ends it; may be destroyed once idle().
  void close() { connection_.close(); }
  bool idle() const { return connection_.idle(); }

 private:
  struct Batch {
    ChunkSink* sink = nullptr;  // nullptr: nobody waits for it any more
    std::vector<WantedPage> pages;
    std::vector<Rider> riders;
    std::uint64_t request_id = 0;  // 0: free
    Clock::time_point sent;
  };
  struct PinRequest {
    std::uint64_t id;
    SnapshotId snapshot;
  };

  void on_ready() override;
  void on_wrong_store(const Error& error) override;
  Result<void> on_reply(Envelope reply, ByteSpan body) override;
  void on_replies_end() override;
  void on_lost() override { pin_requests_.clear(); }
  /// Whoever is served from a snapshot needs its pin, which a lost connection takes along.
  bool needs_connection() const override;
  std::size_t outstanding() const override;
  bool overdue(Clock::time_point now) const override;

  struct Entry {
    ChunkSink* sink;
    std::optional<SnapshotId> snapshot;  // nothing: none for now
  };
  bool needs(SnapshotId snapshot) const;
  void send_pin(const Message& message, SnapshotId snapshot);
  void take_pin_reply(std::vector<PinRequest>::iterator request, const Message& reply);
  void send_batch(Batch& batch);
  Result<void> take_chunks(Batch& batch, const message::Chunks& chunks, ByteSpan body);
  void take_refusal(Batch& batch, const Error& error);
  Batch* free_batch();

  std::vector<Entry> sinks_;
  std::vector<PinRequest> pin_requests_;  // unanswered
  std::array<Batch, limits::kMaxBatches> batches_;
  std::uint64_t next_request_ = 1;
  std::size_t next_sink_ = 0;  // who is offered room first
  unsigned wrong_stores_ = 0;  // met since the server was last there
  ServerConnection connection_;
};

}  // namespace thaw
