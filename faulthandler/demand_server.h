#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
#include "faulthandler/server_connection.h"
#include "format/chunk.h"

namespace thaw {

/// One of the page servers of a demand link: its connection, what was asked of it and not answered
/// yet, and the snapshots that it is to keep. What it does not answer before it is lost is for the
/// owner to ask again. One thread.
class DemandServer final : private ServerConnection::User {
 public:
  class Owner {
   public:
    virtual void on_server_ready(std::size_t server) = 0;
    /// What it was asked is not asked of it any more.
    virtual void on_server_lost(std::size_t server) = 0;
    virtual void on_wrong_store(std::size_t server, const Error& error) = 0;
    /// A reply to a request that took so long; an error loses the server.
    virtual Result<void> on_reply(std::size_t server, const Envelope& reply, ByteSpan body,
                                  Nanoseconds took) = 0;
    virtual void on_replies_end() = 0;
    virtual bool needs_servers() const = 0;
    /// Pages that wait and that no server has been asked for.
    virtual std::size_t unasked_pages() const = 0;

   protected:
    ~Owner() = default;
  };

  /// `number`: its place among the owner's.
  DemandServer(Loop& loop, const std::optional<ServerAddress>& address, Origin origin,
               std::size_t number, Owner& owner);
  DemandServer(const DemandServer&) = delete;
  DemandServer& operator=(const DemandServer&) = delete;
  ~DemandServer() = default;

  /// Nothing: there is none of this number for now.
  const std::optional<ServerAddress>& address() const { return connection_.server(); }
  /// From now on it is this one.
  void change(const std::optional<ServerAddress>& address) {
    connection_.leave("it is no page server of this host any more");
    connection_.move_to(address);
  }
  void open() { connection_.open(); }
  bool ready() const { return connection_.ready(); }
  bool has_room() const { return asked_.size() < limits::kMaxUnanswered; }
  std::optional<Clock::time_point> away_since() const { return connection_.away_since(); }

  /// Sends the request, with a number of its owner's. REQUIRES: ready(), has_room().
  void ask(std::uint64_t request, std::span<const ChunkId> chunks, std::size_t optional,
           std::size_t pages);
  /// Has the server keep the snapshot, or lets it go; nothing where there is no connection. A
  /// number as for ask().
  void pin(std::uint64_t request, SnapshotId snapshot);
  void unpin(std::uint64_t request, SnapshotId snapshot);
  /// Whether it has answered all that it was told of this snapshot. REQUIRES: ready().
  bool has_answered(SnapshotId snapshot) const {
    return std::ranges::find(pin_requests_, snapshot, &PinRequest::snapshot) == pin_requests_.end();
  }

  /// REQUIRES: the owner does not need it.
  void serve(const Origin& origin) { connection_.serve(origin); }
  void close() { connection_.close(); }
  bool idle() const { return connection_.idle(); }

 private:
  struct Asked {
    std::uint64_t request;
    std::size_t pages;
    Clock::time_point sent;
  };
  struct PinRequest {
    std::uint64_t id;
    SnapshotId snapshot;
  };

  void on_ready() override { owner_.on_server_ready(number_); }
  void on_wrong_store(const Error& error) override { owner_.on_wrong_store(number_, error); }
  Result<void> on_reply(Envelope reply, ByteSpan body) override;
  void on_replies_end() override { owner_.on_replies_end(); }
  void on_lost() override;
  bool needs_connection() const override { return owner_.needs_servers(); }
  std::size_t outstanding() const override;
  bool overdue(Clock::time_point now) const override;
  void send_pin(const Message& message, std::uint64_t request, SnapshotId snapshot);
  void take_pin_reply(std::vector<PinRequest>::iterator request, const Message& reply);

  const std::size_t number_;
  Owner& owner_;
  std::vector<Asked> asked_;
  std::vector<PinRequest> pin_requests_;  // unanswered
  ServerConnection connection_;
};

}  // namespace thaw
