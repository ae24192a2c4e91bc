#pragma once

#include <string>
#include <string_view>

namespace thaw {

/// Text that others wrote (names, labels, paths, messages of peers) as it may be shown on a
/// terminal or stand in one line of a log: control characters, line separators, characters that are
/// invisible or turn the direction of text, and bytes that are not UTF-8 become escapes such as
/// "\n", "\x1b" or "\u202e". All other text stays as it is, backslashes included.
std::string printable(std::string_view text);

/// Whether all of the text is well-formed UTF-8.
bool is_utf8(std::string_view text);

}  // namespace thaw
