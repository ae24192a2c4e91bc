#pragma once

#include <vector>

#include "format/page_map.h"
#include "pageserver/chunk_set.h"
#include "pageserver/job.h"
#include "pageserver/snapshot_pins.h"
#include "pageserver/store.h"

namespace thaw {

/// A snapshot's whole page map. kNotFound when the snapshot is not there (any more), kCorrupt when
/// it is and its map is not; `admit` may refuse it before it takes more memory.
Result<PageMap> read_page_map(Store& store, NamespaceId in, SnapshotId snapshot,
                              const MapAdmission& admit = {});

/// Every snapshot that has a name, in order of name.
Result<std::vector<Manifest>> all_manifests(Store& store, NamespaceId in);

/// What these chunks take up in the store; one that cannot be read takes up nothing. At the
/// control's pace.
Result<ByteCount> stored_bytes(Store& store, const ChunkSet& chunks, JobControl& control);

/// [writer] Removes a snapshot unless it is pinned; false: it is.
Result<bool> remove_unless_pinned(Store& store, SnapshotPins& pins, NamespaceId in,
                                  SnapshotId snapshot);

}  // namespace thaw
