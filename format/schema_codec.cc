#include "format/schema_codec.h"

#include "base/check.h"

namespace thaw {

capnp::ReaderOptions reader_options(std::size_t bytes) {
  return {.traversalLimitInWords = 2 * bytes / sizeof(capnp::word) + 16, .nestingLimit = 16};
}

Result<kj::ArrayPtr<const capnp::word>> as_words(ByteSpan bytes) {
  // SAFETY: only the number of the address is looked at.
  CHECK(reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(capnp::word) == 0);
  if (bytes.size() % sizeof(capnp::word) != 0) {
    return fail(ErrorCode::kMalformed, "{} bytes are no whole words", bytes.size());
  }
  // SAFETY: aligned, whole words, and Cap'n Proto bounds-checks every access to them.
  return kj::arrayPtr(reinterpret_cast<const capnp::word*>(bytes.data()),
                      bytes.size() / sizeof(capnp::word));
}

std::string to_string(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

capnp::Text::Reader to_text(const std::string& text) { return {text.c_str(), text.size()}; }

Bytes to_bytes(capnp::Data::Reader data) {
  const auto bytes = std::as_bytes(std::span(data.begin(), data.size()));
  return {bytes.begin(), bytes.end()};
}

capnp::Data::Reader to_data(ByteSpan bytes) {
  // SAFETY: unsigned char may alias any object; the reader only reads.
  return {reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()};
}

void write_pack_id(const PackId& from, schema::PackKey::Builder to) {
  to.setSnapshot(from.snapshot.value);
  to.setGeneration(from.generation);
  to.setNumber(from.number);
}
PackId read_pack_id(schema::PackKey::Reader from) {
  return {.snapshot = {from.getSnapshot()},
          .generation = from.getGeneration(),
          .number = from.getNumber()};
}

}  // namespace thaw
