#pragma once

#include <memory>
#include <vector>

#include "base/bytes.h"
#include "faulthandler/prefetch_set.h"
#include "faulthandler/snapshot_source.h"
#include "format/chunk.h"
#include "format/working_set.h"
#include "tests/sim/guest_memory.h"

namespace thaw::sim {

/// A snapshot as a page server has it: its chunks and packs as they are stored, and what a handler
/// knows of it before a restore. Immutable.
struct StoredSnapshot {
  std::shared_ptr<const SnapshotImage> image;
  std::shared_ptr<const PrefetchSet> set;
  WorkingSet working_set;
  std::vector<Content> contents;    // of each page
  std::vector<PlainPage> distinct;  // those that are not zero, each once
  std::vector<Bytes> chunks;        // of those; that of sequence number 1 first
  std::vector<Bytes> packs;
};

/// Several of different shapes, the same in every run: how their regions lie, how many of their
/// pages are zero, are the same, or do not compress.
std::vector<StoredSnapshot> make_snapshots();

}  // namespace thaw::sim
