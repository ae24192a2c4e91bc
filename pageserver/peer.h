#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "base/clock.h"
#include "format/wire.h"
#include "pageserver/push.h"
#include "pageserver/store.h"

namespace thaw {

/// What the server counts over all its peers. Any thread.
struct ServerCounters {
  Clock::time_point started = Clock::now();
  std::atomic<std::uint64_t> connections = 0;
  std::atomic<std::uint64_t> chunks_served = 0;
};

/// An answer: the message and the pieces of its body, kept alive by `owned` and `pin`.
struct Reply {
  Message message;
  Bytes owned;                   // a body made for this reply; empty when `pieces` has one
  std::vector<ByteSpan> pieces;  // a body that lies in the store's memory
  std::shared_ptr<const void> pin;
};

/// One connection's side of the protocol, without sockets: requests in, replies out. One thread at
/// a time.
class Peer {
 public:
  Peer(Store& store, ServerCounters& counters)
      : store_(store), counters_(counters), counted_(&counters.connections) {
    counters.connections.fetch_add(1, std::memory_order_relaxed);
  }

  /// The first request. kProtocol when it is none, kBadVersion, kInvalidArgument.
  Result<Reply> hello(const Message& message);
  message::Role role() const { return role_; }

  /// Answers a request for chunks: all that a demand connection may ask for.
  Result<Reply> chunks(const message::GetChunks& request);

  /// Marks a request of which only the checking is done: finish_write() must follow where the
  /// store's writes are serialised.
  struct NeedsWriter {};
  /// Answers a request. An error is to be sent as an ErrorReply; the connection may go on.
  Result<std::variant<Reply, NeedsWriter>> handle(const Message& message, ByteSpan body);
  /// Does the writing of the request that handle() has just checked.
  Result<Reply> finish_write(const Message& message);

 private:
  Result<Reply> read(const Message& message, ByteSpan body);
  Result<Reply> list(const message::ListSnapshots& request);
  Result<Reply> statistics();
  /// This peer's namespace; kNotFound before the first push to it.
  Result<NamespaceId> name_space();
  Result<Push*> push();

  struct Uncount {
    void operator()(std::atomic<std::uint64_t>* count) const {
      count->fetch_sub(1, std::memory_order_relaxed);
    }
  };

  Store& store_;
  ServerCounters& counters_;
  std::unique_ptr<std::atomic<std::uint64_t>, Uncount> counted_;  // one connection, as it lives
  message::Role role_ = message::Role::kControl;
  std::string name_space_name_;
  std::optional<NamespaceId> name_space_;
  std::unique_ptr<Push> push_;
};

}  // namespace thaw
