#pragma once

#include <atomic>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/stream.h"
#include "pageserver/peer.h"
#include "pageserver/sys/core_follower.h"

namespace thaw {

/// Serves the connections for pages, demand and prefetch, each on a thread of its own that blocks:
/// one system call receives a request, one sends its reply, and nothing else stands between the two
/// but the store. A peer that is slow to take replies stops its own thread alone. Locks itself.
///
/// A demand connection's thread runs on the CPU where its packets are processed (CoreFollower); one
/// that prefetches runs where there is room.
class PageThreads {
 public:
  PageThreads() = default;
  PageThreads(const PageThreads&) = delete;
  PageThreads& operator=(const PageThreads&) = delete;
  ~PageThreads() { stop(); }

  /// Drops connections that have ended: until then they count as connections.
  void forget_ended();
  /// Takes over a connection whose hello has been answered.
  void serve(Stream stream, Peer peer, std::string remote);
  /// Connections end, after the reply to what was received, and no others are taken any more.
  void stop();

 private:
  struct Connection {
    Stream stream;
    std::optional<Peer> peer;  // as long as it is served: its pins go with it
    std::string remote;
    std::atomic<bool> ended = false;
    std::jthread thread;  // the last member: it uses the others
  };
  static Result<void> run(Connection& connection, BulkWork& bulk);

  BulkWork bulk_;  // before the connections, whose threads use it

  std::mutex mutex_;
  std::list<Connection> connections_;  // guarded by mutex_
  bool stopped_ = false;               // guarded by mutex_
};

}  // namespace thaw
