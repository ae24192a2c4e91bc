#include <algorithm>

#include "format/chunk.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

constexpr ChunkId kId = ChunkId::of(1, 0, 7);

void expect_round_trip(ChunkCodec& codec, PageSpan page) {
  Bytes chunk;
  codec.encode(page, kId, chunk);
  PlainPage back;
  CHECK(chunk.size() <= kMaxChunkBytes);
  CHECK(codec.decode(chunk, kId, back));
  CHECK(std::ranges::equal(back, page));
}

void run(ByteSpan input) {
  ChunkCodec codec;
  PlainPage page{};
  const auto decoded = codec.decode(input, kId, page);
  if (decoded) {
    CHECK(chunk_size(input).value() == input.size());
    expect_round_trip(codec, page);
  } else if (decoded.error().code() == ErrorCode::kChecksumMismatch) {
    // Everything but the checksum is right, so with the right one it is a chunk.
    Bytes resealed(input.begin(), input.end());
    reseal_chunk(resealed, page, kId);
    PlainPage back;
    CHECK(codec.decode(resealed, kId, back));
    CHECK(back == page);
  }
  PlainPage as_page{};
  std::ranges::copy(input.first(std::min(input.size(), kPageBytes)), as_page.begin());
  expect_round_trip(codec, as_page);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
