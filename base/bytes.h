#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thaw {

using Bytes = std::vector<std::byte>;
using ByteSpan = std::span<const std::byte>;
using MutableByteSpan = std::span<std::byte>;

/// Little-endian integers in byte strings, the byte order of every format in FORMAT.md. The caller
/// has checked that sizeof(T) bytes are there. x86-64 and aarch64 Linux are little-endian.
template <typename T>
T load_le(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
template <typename T>
void store_le(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

/// Reads varints (LEB128) from a byte string it does not own. After the first failure every
/// further read yields 0 and ok() stays false, so a decoder may check once at the end of a step.
class VarintReader {
 public:
  explicit VarintReader(ByteSpan bytes) : bytes_(bytes) {}

  std::uint64_t next();
  std::int64_t next_signed();
  bool ok() const { return ok_; }
  bool at_end() const { return bytes_.empty(); }

 private:
  ByteSpan bytes_;
  bool ok_ = true;
};

void append_varint(Bytes& to, std::uint64_t value);
/// Zigzag form: small magnitudes of either sign stay short.
void append_signed_varint(Bytes& to, std::int64_t value);

/// Lower-case hexadecimal digits.
std::string to_hex(ByteSpan bytes);

inline ByteSpan as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string_view as_text(ByteSpan bytes) {
  // SAFETY: char may alias any object, and the view has the lifetime of the span.
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace thaw
