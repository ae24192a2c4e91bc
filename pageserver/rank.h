#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"
#include "format/page_map.h"
#include "format/recording.h"
#include "format/working_set.h"

namespace thaw {

/// The rules that make a working set of recordings. Pure functions: the same recordings, in any
/// order, make the same set.

/// Whether a page belongs to the set: more than a third of the recordings have it. A page that is
/// brought in vain costs about a twentieth of a fault, but a set should be mostly right.
constexpr bool belongs(std::size_t seen, std::size_t recordings) { return seen * 3 > recordings; }
/// The classes, by the median of a page's first touches, counted from the guest's first: up to the
/// first limit it holds up the guest before that gets anything done, up to the second it is of what
/// the guest does first.
inline constexpr std::uint32_t kFirstUntilUs = 10'000;
inline constexpr std::uint32_t kEarlyUntilUs = 250'000;

/// A recording with fewer pages than this part of its siblings' median tells nothing of what the
/// guest does: its VM was ended early, or never ran. It is kept and not ranked.
inline constexpr std::size_t kLeastPart = 4;

/// The recordings that are ranked: all but those that are far smaller than the median (the upper
/// one of two). A recording without siblings is ranked whatever its size.
std::vector<const Recording*> ranked(std::span<const Recording> recordings);

/// The pages that belong to the set of ranked() recordings, in the order in which they are to be
/// brought: by class, those seen more often first, then the earlier ones by the median of their
/// first touches (the lower one of two), then by page. Beyond limits::kMaxTouches the last are left
/// out. REQUIRES: at most limits::kMaxRecordings recordings, each with a page at most once.
std::vector<SetPage> rank(std::span<const Recording> recordings);

/// The pages of a parent's set that a child has not changed: the same chunk, or zero, at the same
/// place in both. They keep their order. REQUIRES: `child` describes at least `memory`, the child's
/// guest memory.
std::vector<SetPage> inherit(std::span<const SetPage> parent_set, const PageMap& parent,
                             const PageMap& child, PageCount memory);

/// How many pages of a set a recording touched.
std::size_t judge(std::span<const SetPage> pages, const Recording& recording);

/// Cuts the pages of a set that are not zero, in its order, into packs, their bytes still 0; which
/// pages each has, packed_pages() says. Those of the first class are small, so that the first of
/// them is there soon, the others large. A pack has limits::kMinPackPages pages unless the whole
/// set has fewer, and has pages of two classes only if it would be smaller otherwise. REQUIRES:
/// pages of the map, ordered by class.
std::vector<PackShape> pack_groups(std::span<const SetPage> pages, const PageMap& map);

}  // namespace thaw
