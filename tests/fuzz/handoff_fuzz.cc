#include <optional>

#include "format/handoff.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

/// What a scanner says in the end; nothing when it refuses the text.
std::optional<bool> scanned(ByteSpan text, std::size_t piece_bytes) {
  HandoffScanner scanner;
  bool ended = false;
  while (!text.empty()) {
    const std::size_t size = std::min(piece_bytes, text.size());
    const auto fed = scanner.feed(text.first(size));
    if (!fed) return std::nullopt;
    ended = *fed;
    text = text.subspan(size);
  }
  return ended;
}

void run(ByteSpan input) {
  const auto whole = scanned(input, input.size());
  CHECK(scanned(input, 1) == whole);
  CHECK(scanned(input, 7) == whole);

  const auto regions = decode_handoff(as_text(input));
  if (!regions) return;
  CHECK(regions->size() <= limits::kMaxRegions);
  // The parser skips a byte order mark, which no VMM sends and the scanner refuses.
  if (!as_text(input).starts_with("\xef\xbb\xbf")) CHECK(whole == true);
  CHECK(decode_handoff(encode_handoff(*regions)).value() == *regions);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
