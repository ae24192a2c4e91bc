#include "tests/support/page_connection.h"

#include <array>

#include "base/socket.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {

PageConnection::PageConnection(const std::string& address, message::Role role,
                               const std::string& name_space)
    : deadline_(Deadline::after(kPatience)),
      socket_(connect_tcp(resolve_tcp(address).value(), deadline_).value()) {
  const Received welcome = ask(message::Hello{.role = role, .name_space = name_space});
  EXPECT_TRUE(std::holds_alternative<message::Welcome>(welcome.message));
}

void PageConnection::send(const Message& message, ByteSpan body) {
  Bytes bytes;
  encode_message(message, 1, body.size(), bytes);
  bytes.insert(bytes.end(), body.begin(), body.end());
  EXPECT_TRUE(succeeded(send_all(socket_, bytes, deadline_)));
}

PageConnection::Received PageConnection::receive() {
  std::array<std::byte, kWireHeadBytes> prefix;
  EXPECT_TRUE(succeeded(receive_all(socket_, prefix, deadline_)));
  const WireHead head = decode_wire_head(prefix).value();
  Bytes header(head.header_bytes);
  EXPECT_TRUE(succeeded(receive_all(socket_, header, deadline_)));
  Bytes body(head.body_bytes);
  EXPECT_TRUE(succeeded(receive_all(socket_, body, deadline_)));
  return {decode_message(header).value().message, std::move(body)};
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
  EXPECT_EQ(code_of(receive_all(socket_, byte, deadline_)), ErrorCode::kUnavailable);
}

}  // namespace thaw::test
