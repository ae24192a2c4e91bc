#pragma once

#include <cstdint>

namespace thaw {

/// What the recordings, working sets and packs of a namespace may have stored together. Restores
/// make them, so they must not use up what pushes need: they have a part of the quota (0: none is
/// set) and leave pushes what these have stored. Without a quota they have as much as pushes have
/// stored, and a little where that is little. Pure.
std::uint64_t working_set_share(std::uint64_t quota_bytes, std::uint64_t pushed_bytes);

}  // namespace thaw
