#pragma once

#include <cstdint>
#include <functional>

#include "base/clock.h"
#include "base/socket.h"
#include "format/chunk.h"
#include "format/pack.h"
#include "format/wire.h"
#include "tests/support/loopback.h"
#include "tests/support/store_of.h"

namespace thaw::test {

/// What a chunk holds in these tests: a page that its id determines and that is not zero.
PlainPage content_of(ChunkId id);
/// A sealed pack of such pages.
Bytes pack_of(std::span<const PackPage> pages);

/// The page server's end of a connection for pages in the hands of a test: nothing is answered
/// unless the test says so. One thread.
class ScriptedServer {
 public:
  const TcpAddress& address() const { return listener_.address; }
  /// What the next hello is answered with; store_of(1) at first.
  void set_store(const StoreId& store) { store_ = store; }
  /// Takes the connection and answers its hello.
  void accept(message::Role role = message::Role::kDemand);
  /// The same, of a peer that hangs up then without a word: it wants another store.
  void accept_and_be_left(message::Role role = message::Role::kDemand);
  /// Ends the connection; another may be accepted.
  void hang_up() { socket_.reset(); }

  struct Request {
    std::uint64_t id = 0;
    std::vector<ChunkId> required;
    std::vector<ChunkId> optional;
  };
  Request next_request();
  /// Whether one is there now.
  bool has_request() const;
  /// Sends all chunks, or as many of the optional ones.
  void reply(const Request& request) { reply(request, request.optional.size()); }
  void reply(const Request& request, std::size_t optional);
  void refuse(const Request& request, ErrorCode code) { refuse(request.id, code); }

  struct PackRequest {
    std::uint64_t id = 0;
    message::GetPack pack;
  };
  PackRequest next_pack_request();
  void reply(const PackRequest& request, std::span<const PackPage> pages);
  /// With nothing in it.
  void reply_empty(const PackRequest& request) { send(message::PackReply{}, request.id, {}); }
  /// Answers with what is no pack.
  void reply_with_another_kind(const PackRequest& request) {
    send(message::Done{}, request.id, {});
  }
  void refuse(const PackRequest& request, ErrorCode code) { refuse(request.id, code); }
  /// Sends bytes as they are.
  void send(ByteSpan bytes);
  /// Called with each chunk before it is sent.
  void set_tamper(std::function<void(ChunkId, MutableByteSpan chunk)> tamper) {
    tamper_ = std::move(tamper);
  }

 private:
  void welcome(message::Role role);
  Envelope receive();
  void refuse(std::uint64_t request_id, ErrorCode code);
  void send(const Message& message, std::uint64_t request_id, ByteSpan body);

  TcpListener listener_;
  StoreId store_ = store_of(1);
  UniqueFd socket_;
  ChunkCodec codec_;
  std::function<void(ChunkId, MutableByteSpan)> tamper_;
};

}  // namespace thaw::test
