#include "format/control.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

void run(ByteSpan input) {
  const std::string_view line = as_text(input);
  if (const auto request = decode_control_request(line)) {
    const auto back = decode_control_request(encode_control_request(*request));
    CHECK(back);
    CHECK(*back == *request);
  }
  if (const auto reply = decode_control_reply(line)) {
    const std::string again = encode_control_reply(*reply);
    const auto back = decode_control_reply(again);
    CHECK(back);
    CHECK(back->index() == reply->index());
    CHECK(encode_control_reply(*back) == again);
  }
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
