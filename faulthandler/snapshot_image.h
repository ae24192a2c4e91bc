#pragma once

#include <optional>

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/origin.h"
#include "faulthandler/page_hashes.h"
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
  /// All of it, for the process after this one: a memory file.
  UniqueFd file{};
  /// What its pages are checked by; nothing: by their checksums alone.
  std::optional<PageHashes> hashes{};

  const PageHashes* page_hashes() const { return hashes ? &*hashes : nullptr; }
};

/// Which image it is on this host. Ids are never reused inside an origin. An image whose pages are
/// checked is another one than that of a session that believes the page servers, and a server may
/// give two contents the same id.
struct ImageKey {
  Origin origin;
  SnapshotId snapshot;
  std::optional<Sha256> checked_content;  // nothing: its pages are not checked
  friend auto operator<=>(const ImageKey&, const ImageKey&) = default;
};
ImageKey key_of(const SnapshotImage& image);

/// Writes what `image` says into its file, all but the hashes.
Result<void> keep_snapshot_image(SnapshotImage& image);
/// Fetches the hashes of its pages into its file, behind what is there. fetch_page_hashes() has
/// the errors. REQUIRES: keep_snapshot_image(image).
Result<void> fetch_page_hashes(PageClient& client, SnapshotImage& image);
/// What another process has kept. kMalformed, and what the decoders say.
Result<SnapshotImage> read_snapshot_image(UniqueFd file);

}  // namespace thaw
