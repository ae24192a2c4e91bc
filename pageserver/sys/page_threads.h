#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <semaphore>
#include <string>
#include <thread>
#include <utility>

#include "base/cpu.h"
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
  /// A connection's thread calls `ended` last, so that another thread calls forget_ended(), which
  /// joins it.
  explicit PageThreads(std::function<void()> ended) : ended_(std::move(ended)) {}
  PageThreads(const PageThreads&) = delete;
  PageThreads& operator=(const PageThreads&) = delete;
  ~PageThreads() { stop(); }

  /// Drops connections that have ended: until then they keep their descriptors.
  void forget_ended();

  class Place;
  /// A thread for a connection that is about to come; kLimitExceeded when there can be none.
  Result<Place> take_place();
  /// Which peers, by the certificate they have shown and their address, are left.
  using Refusal = std::function<bool(const TlsPeer& peer, const std::string& remote)>;
  /// Closes the connections of those for which it returns true; it is called without a lock.
  /// REQUIRES: forget_ended() and stop() are not called meanwhile.
  void leave(const Refusal& refused);
  /// Connections end, after the reply to what was received, and no others are taken any more.
  void stop();

 private:
  struct Connection {
    // Nothing until it has come; then the thread's own.
    std::optional<Stream> stream;
    std::optional<Peer> peer;  // as long as it is served: its pins go with it
    std::string remote;
    std::optional<TlsPeer> shown;      // guarded by mutex_ until it has come, then fixed
    std::binary_semaphore decided{0};  // it has come, or never will
    std::atomic<bool> ended = false;
    std::jthread thread;  // the last member: it uses the others
  };
  static Result<void> run(Connection& connection, BulkWork& bulk);
  void serve(Connection& connection, Stream stream, Peer peer, std::string remote);

  const std::function<void()> ended_;
  const CpuSet cpus_ = allowed_cpus(0).value_or(CpuSet());
  BulkWork bulk_;  // before the connections, whose threads use it

  std::mutex mutex_;
  std::list<Connection> connections_;  // guarded by mutex_
  bool stopped_ = false;               // guarded by mutex_
};

/// A thread that waits for its connection; it ends when there comes none. One thread.
class PageThreads::Place {
 public:
  Place(Place&& other) noexcept
      : threads_(other.threads_), connection_(std::exchange(other.connection_, nullptr)) {}
  Place& operator=(Place&&) = delete;
  ~Place() {
    if (connection_ != nullptr) connection_->decided.release();
  }

  /// Takes over a connection whose hello has been answered. Once.
  void serve(Stream stream, Peer peer, std::string remote) {
    threads_->serve(*connection_, std::move(stream), std::move(peer), std::move(remote));
  }

 private:
  friend PageThreads;
  Place(PageThreads& threads, Connection& connection)
      : threads_(&threads), connection_(&connection) {}

  PageThreads* threads_;
  Connection* connection_;
};

}  // namespace thaw
