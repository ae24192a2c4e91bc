#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "faulthandler/demand_link.h"
#include "faulthandler/prefetch_job.h"
#include "faulthandler/server_connection.h"
#include "format/working_set.h"

namespace thaw {

/// The prefetch connection of one origin, shared by the sessions of a loop. It is to one of the
/// page servers: the one that answers demands, if it is there, and to another when that one goes
/// away, refuses something or brings something damaged. A bounded number of bytes is asked for
/// ahead, and only one piece while a demand waits: what has been asked for stands in a demand's way
/// on the network. What is lost with the connection is for its session to ask for again. One
/// thread.
class PrefetchLink final : private ServerConnection::User {
 public:
  /// Who asked for pieces, and is told of each once unless it is forgotten before.
  class Sink {
   public:
    /// The piece as it was stored, unverified. It lies in the buffer that keep_buffer() keeps.
    virtual void on_prefetched(PrefetchJob& job, ByteSpan sealed) = 0;
    /// The server answers, but not with this piece.
    virtual void on_refused(PrefetchJob& job, const Error& error) = 0;
    /// The connection was lost before the piece came.
    virtual void on_lost(PrefetchJob& job) = 0;
    /// There may be room for requests again.
    virtual void on_room() = 0;

   protected:
    ~Sink() = default;
  };

  /// `demand` has the same servers, and must outlive it.
  PrefetchLink(Loop& loop, const std::vector<ServerAddress>& servers, Origin origin,
               DemandLink& demand);
  PrefetchLink(const PrefetchLink&) = delete;
  PrefetchLink& operator=(const PrefetchLink&) = delete;
  ~PrefetchLink() = default;

  /// From now on these are the servers, of `demand` too.
  void set_servers(const ServerPlaces& servers);

  /// Announces a sink and connects.
  void add(Sink& sink);
  /// Drops what it has asked for.
  void forget(const Sink& sink);

  /// Whether something may be asked for now.
  bool has_room() const;
  /// Asks for the job's pack, of about so many bytes. REQUIRES: has_room().
  void request_pack(Sink& sink, PrefetchJob& job, std::uint32_t bytes);
  /// Asks for the chunks of the job's pages. REQUIRES: has_room().
  void request_chunks(Sink& sink, PrefetchJob& job);

  /// During on_prefetched().
  std::size_t keep_buffer() { return connection_.keep_buffer(); }
  void let_go(std::size_t buffer) { connection_.let_go(buffer); }

  /// A piece that was brought was damaged. True: another server may have a better one, and is
  /// connected to; all that is outstanding is lost.
  bool note_damage(const PrefetchJob& job);

  /// Whether nobody has anything to do with it.
  bool unused() const { return sinks_.empty() && requests_.empty(); }
  /// From now on it is for another origin. REQUIRES: unused().
  void serve(const Origin& origin) { connection_.serve(origin); }

  /// Ends it; may be destroyed once idle().
  void close() { connection_.close(); }
  bool idle() const { return connection_.idle(); }

 private:
  struct Request {
    std::uint64_t id;
    Sink* sink;  // nullptr: nobody waits for it any more
    PrefetchJob* job;
    std::size_t bytes;  // that its reply will have, about
    Clock::time_point sent;
  };

  void on_ready() override { offer_room(); }
  /// Has the page servers told that the job's pack, or one of its chunks, is damaged.
  void report_damage(const PrefetchJob& job);
  bool may_try_elsewhere();
  /// The next attempt goes to another server, if there is one.
  void move_on();
  /// Nothing has been asked for, and will be when the right one is there.
  void on_wrong_store(const Error&) override {}
  Result<void> on_reply(Envelope reply, ByteSpan body) override;
  void on_replies_end() override { offer_room(); }
  void on_lost() override;
  bool needs_connection() const override { return !sinks_.empty(); }
  std::size_t outstanding() const override;
  bool overdue(Clock::time_point now) const override;

  void send(Sink& sink, PrefetchJob& job, const Message& request, std::size_t bytes);
  void offer_room();

  DemandLink& demand_;
  ServerPlaces servers_;
  std::size_t server_ = 0;      // of servers_, the one that is connected to
  Clock::time_point next_try_;  // what is no good is looked for elsewhere, now and then
  std::vector<Sink*> sinks_;
  std::size_t next_sink_ = 0;  // who is offered room first
  std::vector<Request> requests_;
  std::uint64_t next_request_ = 1;
  std::size_t bytes_ahead_ = 0;  // of requests_
  ServerConnection connection_;
};

}  // namespace thaw
