#include "format/recording.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

void run(ByteSpan input) {
  const auto recording = decode_recording(fuzz::sealed_input(fuzz::kRecording, input));
  if (!recording) return;
  CHECK(recording->touches.size() <= limits::kMaxTouches);
  CHECK(recording->regions.size() <= limits::kMaxRegions);
  std::uint32_t us = 0;
  for (const Touch& touch : recording->touches) {
    CHECK(touch.page.value < limits::kMaxImagePages);
    CHECK(touch.us >= us);
    us = touch.us;
  }
  const auto back = decode_recording(encode_recording(*recording));
  CHECK(back);
  CHECK(*back == *recording);

  Manifest snapshot;
  snapshot.content_hash = recording->content_hash;
  snapshot.spec.memory = {64 * kPageBytes};
  if (!check_recording(*recording, snapshot)) return;
  CHECK(recording->touches.size() <= 64);
  for (const Touch& touch : recording->touches) {
    CHECK(touch.kind == TouchKind::kDemand && touch.page.value < 64);
  }
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
