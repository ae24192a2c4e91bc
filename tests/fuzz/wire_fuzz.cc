#include "format/wire.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

Bytes encoded(const Envelope& envelope) {
  Bytes bytes;
  encode_message(envelope.message, envelope.request_id, 0, bytes);
  return bytes;
}

Result<Envelope> decoded(ByteSpan whole) {
  const Bytes aligned(whole.begin() + kWireHeadBytes, whole.end());
  return decode_message(aligned);
}

/// An input is a head and a Cap'n Proto part.
void run(ByteSpan input) {
  // See manifest_fuzz: encoding may double the size.
  if (input.size() < kWireHeadBytes || input.size() > limits::kMaxHeaderBytes / 4) return;
  const auto head = decode_wire_head(input.first<kWireHeadBytes>());
  if (head) CHECK(head->header_bytes <= limits::kMaxHeaderBytes && head->header_bytes % 8 == 0);

  const auto envelope = decoded(input);
  if (!envelope) return;
  const Bytes bytes = encoded(*envelope);
  CHECK(decode_wire_head(std::span(bytes).first<kWireHeadBytes>()));
  const auto back = decoded(bytes);
  CHECK(back);
  CHECK(back->request_id == envelope->request_id);
  CHECK(back->message.index() == envelope->message.index());
  CHECK(encoded(*back) == bytes);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
