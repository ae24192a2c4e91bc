#pragma once

#include <string>

#include "base/socket.h"
#include "base/unique_fd.h"
#include "format/wire.h"

namespace thaw::test {

/// A connection to the page server message by message, for what no client of ours would say. Each
/// message has kPatience.
class PageConnection {
 public:
  struct Received {
    Message message;
    Bytes body;
  };

  /// Connects and is greeted.
  PageConnection(const std::string& address, message::Role role,
                 const std::string& name_space = "default");
  /// The same where the server may have gone.
  static Result<PageConnection> connect(const TcpAddress& address, message::Role role,
                                        const std::string& name_space = "default");

  void send(const Message& message, ByteSpan body = {});
  Received receive();
  Received ask(const Message& message, ByteSpan body = {});
  Result<Received> try_ask(const Message& message, ByteSpan body = {});
  /// As long as this connection is there.
  Result<void> pin(SnapshotId snapshot);
  /// The code of the next reply; kIo when it is no error.
  ErrorCode receive_error();
  void expect_closed();

  const UniqueFd& socket() const { return socket_; }

 private:
  explicit PageConnection(UniqueFd socket) : socket_(std::move(socket)) {}
  Result<void> try_send(const Message& message, ByteSpan body);
  Result<Received> try_receive();

  UniqueFd socket_;
};

}  // namespace thaw::test
