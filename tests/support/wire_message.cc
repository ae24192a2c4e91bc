#include "tests/support/wire_message.h"

#include "base/socket.h"

namespace thaw::test {

Result<WireMessage> receive_message(const UniqueFd& from, Deadline deadline) {
  WireMessage message{.head = Bytes(kWireHeadBytes), .envelope = {}, .body = {}};
  TRY(receive_all(from, message.head, deadline));
  const WireHead sizes = TRY(decode_wire_head(ByteSpan(message.head).first<kWireHeadBytes>()));
  message.head.resize(kWireHeadBytes + sizes.header_bytes);
  const MutableByteSpan header = MutableByteSpan(message.head).subspan(kWireHeadBytes);
  TRY(receive_all(from, header, deadline));
  message.body.resize(sizes.body_bytes);
  TRY(receive_all(from, message.body, deadline));
  message.envelope = TRY(decode_message(header));
  return message;
}

}  // namespace thaw::test
