#include "format/manifest.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

void run(ByteSpan input) {
  // Cap'n Proto may name one text several times: encoding it again writes each, up to twice the
  // input. Larger inputs would leave the format's limit, not the decoder's.
  if (input.size() > limits::kMaxHeaderBytes / 4) return;
  const auto manifest = decode_manifest(fuzz::sealed_input(fuzz::kManifest, input));
  if (!manifest) return;
  CHECK(check_spec(manifest->spec));
  const auto back = decode_manifest(encode_manifest(*manifest));
  CHECK(back);
  CHECK(*back == *manifest);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
