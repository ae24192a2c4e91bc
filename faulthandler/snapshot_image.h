#pragma once

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/origin.h"
#include "format/cold_map.h"
#include "format/manifest.h"
#include "format/page_map.h"

namespace thaw {

/// What a session needs of a snapshot before its first fault. Immutable, shared by all sessions of
/// the snapshot on this host.
struct SnapshotImage {
  Origin origin;
  Manifest manifest;
  PageMap map;
  ColdMap cold{};  // empty also when it cannot be had
  /// All of it, for whoever goes on after this process: a memory file.
  UniqueFd file{};
};

/// Writes what `image` says into its file.
Result<void> keep_snapshot_image(SnapshotImage& image);
/// What another process has kept. kMalformed, and what the decoders say.
Result<SnapshotImage> read_snapshot_image(UniqueFd file);

}  // namespace thaw
