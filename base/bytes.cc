#include "base/bytes.h"

namespace thaw {

std::uint64_t VarintReader::next() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; ok_ && !bytes_.empty(); shift += 7) {
    const auto byte = std::to_integer<std::uint64_t>(bytes_.front());
    bytes_ = bytes_.subspan(1);
    // The tenth byte carries bit 63 alone.
    if (shift == 63 && byte > 1) break;
    value |= (byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return value;
    if (shift == 63) break;
  }
  ok_ = false;
  return 0;
}

std::int64_t VarintReader::next_signed() {
  const std::uint64_t raw = next();
  return static_cast<std::int64_t>((raw >> 1) ^ (0 - (raw & 1)));
}

void append_varint(Bytes& to, std::uint64_t value) {
  while (value >= 0x80) {
    to.push_back(static_cast<std::byte>(value | 0x80));
    value >>= 7;
  }
  to.push_back(static_cast<std::byte>(value));
}

void append_signed_varint(Bytes& to, std::int64_t value) {
  const auto raw = static_cast<std::uint64_t>(value);
  append_varint(to, (raw << 1) ^ static_cast<std::uint64_t>(value >> 63));
}

std::string to_hex(ByteSpan bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::byte byte : bytes) {
    text.push_back(kDigits[std::to_integer<unsigned>(byte) >> 4]);
    text.push_back(kDigits[std::to_integer<unsigned>(byte) & 15]);
  }
  return text;
}

}  // namespace thaw
