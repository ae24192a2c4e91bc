#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "format/wire.h"
#include "tests/support/loopback.h"

namespace thaw::test {

/// A relay in front of a page server that understands its replies and may send others instead.
class LyingRelay {
 public:
  /// Whose reply it is.
  struct Peer {
    message::Role role;
    std::string name_space;
  };
  /// What is sent instead of a reply.
  struct Lie {
    enum class Then { kGoOn, kHangUp, kStall, kTrickle };
    Bytes bytes;
    Then then = Then::kGoOn;
  };
  /// Called with each reply but the welcome, on several threads.
  using Tell = std::function<Lie(const Peer& peer, const Envelope& reply, const Bytes& body)>;

  LyingRelay(std::string server, Tell tell);
  ~LyingRelay();

  const std::string& address() const { return address_; }
  /// As it came.
  static Lie truth(const Envelope& reply, const Bytes& body);

 private:
  struct Message {
    Bytes head;  // with the Cap'n Proto part
    Envelope envelope;
    Bytes body;
  };

  void serve();
  void connect(UniqueFd client);
  /// Requests, all but the hello.
  void pass_requests(const UniqueFd& client, const UniqueFd& server);
  Result<void> pass_replies(const Peer& peer, const UniqueFd& server, const UniqueFd& client);
  Result<void> tell(const Lie& lie, const UniqueFd& client);
  static Result<Message> receive(const UniqueFd& from, const std::atomic<bool>& stopping);

  const std::string server_;
  const Tell tell_;
  TcpListener listener_;
  std::atomic<bool> stopping_ = false;
  const std::string address_;
  std::vector<std::jthread> connections_;
  std::jthread acceptor_;
};

}  // namespace thaw::test
