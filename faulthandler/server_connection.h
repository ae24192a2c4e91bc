#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/stream.h"
#include "faulthandler/loop.h"
#include "faulthandler/origin.h"
#include "format/wire.h"

namespace thaw {

/// A connection to a page server for one origin and role, made when first needed. When the server
/// goes away it comes back with a growing pause, for as long as its user needs it. A server that
/// keeps another store than the origin's counts as away, and is asked for nothing. Replies are
/// received into buffers that are made once; the user reads them where they lie. With TLS they are
/// unsealed into these buffers, on the same thread. One thread.
class ServerConnection {
 public:
  /// Whose requests and replies go over it.
  class User {
   public:
    /// The server has answered the hello: what is outstanding is to be sent (again).
    virtual void on_ready() = 0;
    /// There is a server, but it keeps another store; the connection is lost, too.
    virtual void on_wrong_store(const Error& error) = 0;
    /// A reply; `body` is valid during the call, and after it while its buffer is kept. An error
    /// loses the connection.
    virtual Result<void> on_reply(Envelope reply, ByteSpan body) = 0;
    /// All that has arrived was handed over.
    virtual void on_replies_end() = 0;
    /// The connection is gone; what was outstanding will not be answered.
    virtual void on_lost() = 0;
    /// Whether a connection that was lost is to be made again.
    virtual bool needs_connection() const = 0;
    /// Pages that wait for a reply.
    virtual std::size_t outstanding() const = 0;
    /// Whether a request that was sent has waited too long for its reply.
    virtual bool overdue(Clock::time_point now) const = 0;

   protected:
    ~User() = default;
  };

  struct Options {
    std::optional<ServerAddress> server{};  // nothing: there is none for now
    message::Role role = message::Role::kDemand;
    std::size_t send_bytes = 0;        // room for requests, so that none of them allocates
    std::size_t most_reply_bytes = 0;  // of one reply, head and all
    std::size_t buffers = 1;           // that can be received into before one must be let go
    std::size_t buffer_bytes = 0;      // in each; at least most_reply_bytes
  };

  /// `user` must outlive it.
  ServerConnection(Loop& loop, Origin origin, Options options, User& user);
  ServerConnection(const ServerConnection&) = delete;
  ServerConnection& operator=(const ServerConnection&) = delete;

  /// From now on it is for another origin. REQUIRES: its user does not need it.
  void serve(const Origin& origin);
  /// Nothing: there is none for now, and nothing is connected to.
  const std::optional<ServerAddress>& server() const { return server_; }
  /// The next attempt to connect goes to this server. REQUIRES: it is not there, as in on_lost().
  void move_to(const std::optional<ServerAddress>& server);
  /// Loses the connection, as if the server had gone.
  void leave(const std::string& reason);
  /// Since when the server has been away, if somebody has looked for it.
  std::optional<Clock::time_point> away_since() const;
  bool ready() const { return state_ == State::kReady; }
  /// Connects, unless that is done or under way.
  void open();
  /// What has come of a reply that is not there wholly yet.
  std::size_t partial_bytes() const { return filled_ - start_; }
  /// Where requests are encoded; flush() sends them. REQUIRES: ready().
  Bytes& outbox() { return unsent_; }
  void flush();

  /// Keeps the buffer of the reply that is being handed over until it is let go as often. Nothing
  /// is received while all buffers are kept.
  std::size_t keep_buffer();
  void let_go(std::size_t buffer);
  /// All buffers, for the loop to register.
  MutableByteSpan memory() const { return {memory_.get(), kept_.size() * options_.buffer_bytes}; }

  /// Ends it; may be destroyed once idle().
  void close();
  bool idle() const;

 private:
  enum class State { kAway, kConnecting, kSecuring, kGreeting, kReady, kClosing };

  void connect();
  void on_connected(int result);
  void on_sent(int result);
  void on_received(int result);
  /// Goes on with the handshake of TLS, and says hello when it is done.
  void secure();
  void greet();
  void on_unsealing();
  void on_timer();
  void receive();
  /// Tears the connection down and comes back after the backoff.
  void lose(const std::string& reason);
  void finish_losing();
  void arm_timer(Nanoseconds duration);

  /// Hands over the complete replies in what was received.
  void take_received();
  Result<void> unseal_and_take_replies();
  /// Hands over the complete replies in the buffer.
  Result<void> take_replies();
  Result<void> take_reply(Envelope reply, ByteSpan body);
  /// Makes room for the rest of a reply that has begun to arrive; false when there is none now.
  bool make_room();
  MutableByteSpan buffer(std::size_t index) const;

  Loop& loop_;
  Origin origin_;
  const Options options_;
  std::optional<ServerAddress> server_;
  User& user_;
  State state_ = State::kAway;
  UniqueFd socket_;
  std::optional<TlsSession> tls_;
  bool unseals_later_ = false;  // it has more than there was room for
  Bytes unsent_;                // encoded, not yet given to the kernel
  Bytes sending_;               // being sent
  std::size_t sent_bytes_ = 0;

  const std::unique_ptr<std::byte[]> memory_;
  std::vector<std::size_t> kept_;  // by buffer: how often it is kept
  std::size_t current_ = 0;        // the buffer being received into
  std::size_t start_ = 0;          // in it: what was not handed over yet
  std::size_t filled_ = 0;
  Bytes header_;  // the message being decoded, aligned

  Nanoseconds backoff_;
  Clock::time_point ready_since_;
  Clock::time_point away_since_;
  Clock::time_point away_logged_;
  bool closed_ = false;

  Operation connecting_{[this](int result) { on_connected(result); }};
  Operation sending_operation_{[this](int result) { on_sent(result); }};
  Operation receiving_{[this](int result) { on_received(result); }};
  /// Brings what was received earlier and waited for room.
  Operation unsealing_{[this](int) { on_unsealing(); }};
  Operation timer_{[this](int) { on_timer(); }};
};

}  // namespace thaw
