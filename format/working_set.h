#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "format/manifest.h"
#include "format/page_map.h"

namespace thaw {

/// When restored guests first touch a page: before they get anything done, soon, or later.
enum class TouchClass : std::uint8_t { kFirst = 0, kEarly = 1, kLate = 2 };

struct SetPage {
  PageIndex page;
  TouchClass when = TouchClass::kFirst;
  std::uint8_t seen = 0;        // in how many of the recordings
  std::uint32_t median_us = 0;  // of its first touches, since each guest's first one
  friend bool operator==(const SetPage&, const SetPage&) = default;
};

/// A pack as a working set announces it: the next pages of the set that are not zero, in the set's
/// order.
struct PackShape {
  std::uint16_t pages = 0;  // 1 to limits::kMaxPackPages
  std::uint32_t bytes = 0;  // of the sealed pack
  friend bool operator==(const PackShape&, const PackShape&) = default;
};

/// The pages that restored guests of a snapshot touch, in the order in which they are to be
/// brought, and the packs in which the page server keeps those that are not zero. A value.
struct WorkingSet {
  SnapshotId snapshot;
  /// Number of the newest recording in it, 0 when it was inherited from the parent. With the
  /// snapshot's id it names the packs.
  std::uint64_t generation = 0;
  std::uint8_t recordings = 0;  // that it was ranked from
  std::vector<SetPage> pages;   // each once
  std::vector<PackShape> packs;
  friend bool operator==(const WorkingSet&, const WorkingSet&) = default;

  std::uint64_t pack_bytes() const;
};

/// REQUIRES: at most limits::kMaxTouches pages and as many packs.
Bytes encode_working_set(const WorkingSet& set);
/// kTooLarge, kMalformed (also when a page stands in it twice), and what open_envelope() says.
Result<WorkingSet> decode_working_set(ByteSpan sealed);

/// Which pages the packs of a set hold, by the snapshot's page map: an entry a pack, its pages
/// ascending. kMalformed when the packs do not take up the set's pages, or those are not of the
/// memory.
struct PackPage {
  PageIndex page;
  ChunkId chunk;
  friend bool operator==(const PackPage&, const PackPage&) = default;
};
Result<std::vector<std::vector<PackPage>>> packed_pages(const WorkingSet& set, const PageMap& map,
                                                        PageCount memory);

}  // namespace thaw
