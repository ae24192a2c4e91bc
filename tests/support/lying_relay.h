#pragma once

#include <functional>
#include <string>

#include "format/wire.h"
#include "tests/support/loopback.h"
#include "tests/support/wire_message.h"

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

  const std::string& address() const { return clients_.address(); }
  /// As it came.
  static Lie truth(const Envelope& reply, const Bytes& body);

 private:
  void connect(UniqueFd client);
  /// Requests, all but the hello.
  void pass_requests(const UniqueFd& client, const UniqueFd& server);
  Result<void> pass_replies(const Peer& peer, const UniqueFd& server, const UniqueFd& client);
  Result<void> tell(const Lie& lie, const UniqueFd& client);
  Result<WireMessage> receive(const UniqueFd& from) const;

  const std::string server_;
  const Tell tell_;
  LoopbackServer clients_;  // the last member: its threads use the others
};

}  // namespace thaw::test
