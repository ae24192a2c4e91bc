#pragma once

namespace thaw {

/// Prints the broken invariant to stderr and aborts. Never returns.
[[noreturn]] void check_failed(const char* condition, const char* file, int line) noexcept;

}  // namespace thaw

/// Aborts when an invariant of this program is broken, in every build type. Input from a peer, a
/// file or a user is never CHECKed: it is refused with an Error.
#define CHECK(condition) \
  ((condition) ? void() : ::thaw::check_failed(#condition, __FILE__, __LINE__))
