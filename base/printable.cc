#include "base/printable.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include <fmt/core.h>

namespace thaw {

namespace {

struct Range {
  char32_t first;
  char32_t last;
};

constexpr std::array kEscaped{
    Range{0x00, 0x1f},        // control characters
    Range{0x7f, 0x9f},        // DEL, and the control characters of a second set
    Range{0x61c, 0x61c},      // a mark of direction
    Range{0x200b, 0x200f},    // invisible, and marks of direction
    Range{0x2028, 0x202e},    // separators of lines, and what turns the direction
    Range{0x2060, 0x206f},    // invisible, and what turns the direction
    Range{0xfeff, 0xfeff},    // byte order mark
    Range{0xfff9, 0xfffb},    // annotations
    Range{0xe0000, 0xe007f},  // tags, which are invisible
};

struct Character {
  char32_t value;
  std::size_t bytes;
};

/// The first character; nothing when the text does not begin with well-formed UTF-8.
std::optional<Character> first_character(std::string_view text) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return Character{lead, 1};
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || bytes > text.size()) return std::nullopt;
  char32_t value = lead & (0x7fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0u) != 0x80) return std::nullopt;
    value = value << 6 | (byte(i) & 0x3fu);
  }
  constexpr std::array<char32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (value < kLeast[bytes] || surrogate || value > 0x10ffff) return std::nullopt;
  return Character{value, bytes};
}

std::string escape(char32_t value) {
  if (value == '\n') return "\\n";
  if (value == '\r') return "\\r";
  if (value == '\t') return "\\t";
  const auto number = static_cast<std::uint32_t>(value);
  if (number < 0x80) return fmt::format("\\x{:02x}", number);
  return number <= 0xffff ? fmt::format("\\u{:04x}", number) : fmt::format("\\U{:08x}", number);
}

}  // namespace

std::string printable(std::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  while (!text.empty()) {
    const auto character = first_character(text);
    const std::size_t bytes = character ? character->bytes : 1;
    if (!character) {
      shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(text.front()));
    } else if (std::ranges::any_of(kEscaped, [&](const Range& range) {
                 return character->value >= range.first && character->value <= range.last;
               })) {
      shown += escape(character->value);
    } else {
      shown += text.substr(0, bytes);
    }
    text.remove_prefix(bytes);
  }
  return shown;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const auto character = first_character(text);
    if (!character) return false;
    text.remove_prefix(character->bytes);
  }
  return true;
}

}  // namespace thaw
