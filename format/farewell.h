#pragma once

#include <cstddef>

namespace thaw {

/// What a VMM may say on its session's socket once nobody uses its memory any more: the ASCII
/// character EOT. The handler ends the session, and closes the socket when it fills no page any
/// more. Only then may the VMM unmap the memory while it lives on: the kernel fills registered
/// memory at the old addresses whosever it is by then.
inline constexpr std::byte kFarewell{4};

}  // namespace thaw
