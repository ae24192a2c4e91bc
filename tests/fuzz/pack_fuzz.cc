#include <algorithm>

#include "format/pack.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

constexpr std::size_t kPlainBytes = fuzz::kPackPages.size() * kPageBytes;
/// Where the payload begins: behind the header and an entry for each page.
constexpr std::ptrdiff_t kPayloadAt = 16 + 16 * fuzz::kPackPages.size();

void expect_round_trip(PackCodec& codec, const Bytes& plain) {
  const Bytes sealed = codec.encode(fuzz::kPackPages, plain);
  CHECK(sealed.size() <= limits::kMaxPackBytes);
  Bytes back(kPlainBytes);
  CHECK(codec.decode(sealed, fuzz::kPackPages, back));
  CHECK(back == plain);
}

void run(ByteSpan input) {
  PackCodec codec;
  Bytes plain(kPlainBytes);
  const auto decoded = codec.decode(input, fuzz::kPackPages, plain);
  if (decoded) {
    expect_round_trip(codec, plain);
  } else if (decoded.error().code() == ErrorCode::kChecksumMismatch) {
    // Everything but the checksums is right, so with the right ones it is a pack.
    const Bytes right = codec.encode(fuzz::kPackPages, plain);
    Bytes resealed(input.begin(), input.end());
    std::copy(right.begin() + 16, right.begin() + kPayloadAt, resealed.begin() + 16);
    Bytes back(kPlainBytes);
    CHECK(codec.decode(resealed, fuzz::kPackPages, back));
    CHECK(back == plain);
  }
  Bytes as_pages(kPlainBytes);
  std::ranges::copy(input.first(std::min(input.size(), kPlainBytes)), as_pages.begin());
  expect_round_trip(codec, as_pages);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
