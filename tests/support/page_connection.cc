#include "tests/support/page_connection.h"

#include <array>

#include "base/socket.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"
#include "tests/support/wire_message.h"

namespace thaw::test {

PageConnection::PageConnection(const std::string& address, message::Role role,
                               const std::string& name_space)
    : PageConnection(connect(resolve_tcp(address).value(), role, name_space).value()) {}

Result<PageConnection> PageConnection::connect(const TcpAddress& address, message::Role role,
                                               const std::string& name_space) {
  PageConnection made(TRY(connect_tcp(address, Deadline::after(kPatience))));
  const Received welcome =
      TRY(made.try_ask(message::Hello{.role = role, .name_space = name_space}));
  EXPECT_TRUE(std::holds_alternative<message::Welcome>(welcome.message));
  return made;
}

Result<void> PageConnection::try_send(const Message& message, ByteSpan body) {
  Bytes bytes;
  encode_message(message, 1, body.size(), bytes);
  bytes.insert(bytes.end(), body.begin(), body.end());
  return send_all(socket_, bytes, Deadline::after(kPatience));
}

Result<PageConnection::Received> PageConnection::try_receive() {
  WireMessage received = TRY(receive_message(socket_, Deadline::after(kPatience)));
  return Received{std::move(received.envelope.message), std::move(received.body)};
}

Result<PageConnection::Received> PageConnection::try_ask(const Message& message, ByteSpan body) {
  TRY(try_send(message, body));
  return try_receive();
}

Result<void> PageConnection::pin(SnapshotId snapshot) {
  const Received received = TRY(try_ask(message::Pin{snapshot}));
  const auto* const error = std::get_if<message::ErrorReply>(&received.message);
  if (error != nullptr) return fail(error->code, "{}", error->text);
  return {};
}

void PageConnection::send(const Message& message, ByteSpan body) {
  EXPECT_TRUE(succeeded(try_send(message, body)));
}

PageConnection::Received PageConnection::receive() {
  auto received = try_receive();
  EXPECT_TRUE(succeeded(received));
  return std::move(received).value();
}

PageConnection::Received PageConnection::ask(const Message& message, ByteSpan body) {
  send(message, body);
  return receive();
}

ErrorCode PageConnection::receive_error() {
  const Received received = receive();
  const auto* const error = std::get_if<message::ErrorReply>(&received.message);
  return error != nullptr ? error->code : ErrorCode::kIo;
}

void PageConnection::expect_closed() {
  std::array<std::byte, 1> byte;
  EXPECT_EQ(code_of(receive_all(socket_, byte, Deadline::after(kPatience))),
            ErrorCode::kUnavailable);
}

}  // namespace thaw::test
