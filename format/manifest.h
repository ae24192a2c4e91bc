#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "format/limits.h"

namespace thaw {

using Sha256 = std::array<std::byte, 32>;

/// The snapshot's own number inside its namespace, from 1, never reused.
struct SnapshotId {
  std::uint64_t value = 0;
  friend constexpr auto operator<=>(SnapshotId, SnapshotId) = default;
};

/// A region as the snapshot knows it: no host address, which is new at every restore.
struct RegionShape {
  ByteCount size;
  ImageOffset offset;
  ByteCount page_size;  // 4 KiB or 2 MiB
  friend bool operator==(const RegionShape&, const RegionShape&) = default;
};

struct Label {
  std::string key;
  std::string value;
  friend bool operator==(const Label&, const Label&) = default;
};

/// What a client says of a snapshot before its pages.
struct SnapshotSpec {
  std::string name;
  ByteCount memory;  // whole pages
  ByteCount state;   // any size; 0 when there is no state file
  /// Empty when the layout was not recorded; then any regions that tile the memory fit.
  std::vector<RegionShape> regions;
  std::vector<Label> labels;
  std::string cpu_vendor;  // empty when unknown

  PageCount memory_pages() const { return pages_for(memory); }
  PageCount state_pages() const { return pages_for(state); }
  /// Pages of the image: memory, then the state file padded with zeros to whole pages.
  PageCount image_pages() const { return memory_pages() + state_pages(); }
  friend bool operator==(const SnapshotSpec&, const SnapshotSpec&) = default;
};

/// What became of the pages of a push.
struct PushStatistics {
  std::uint64_t zero_pages = 0;
  std::uint64_t duplicate_pages = 0;  // stored already, by this push or before
  std::uint64_t new_pages = 0;
  std::uint64_t new_chunk_bytes = 0;  // stored size of the new ones
  // Beside the parent's pages at the same places; 0 without a parent.
  std::uint64_t changed_pages = 0;      // that are not zero, those that it has not included
  std::uint64_t became_zero_pages = 0;  // that are zero and were not
  std::uint64_t cold_pages = 0;         // that are not zero; 0 also when nobody looked for them
  friend bool operator==(const PushStatistics&, const PushStatistics&) = default;
};

/// How a content hash is made of the hashes of an image's pages. FORMAT.md has the bytes.
enum class ContentForm : std::uint16_t {
  kFlat = 0,      // of all of them in a row: what was pushed before there were other forms
  kSegments = 1,  // of a hash for each segment of the page map
};

/// A committed snapshot, all but its page map. A value.
struct Manifest {
  SnapshotId snapshot;
  SnapshotId parent;  // 0: none
  std::uint64_t created_unix_ms = 0;
  SnapshotSpec spec;
  /// The identity of the content.
  Sha256 content_hash{};
  ContentForm content_form = ContentForm::kFlat;
  PushStatistics statistics;
  friend bool operator==(const Manifest&, const Manifest&) = default;
};

/// Whether a spec keeps the rules: a name of 1 to limits::kMaxNameBytes printable characters
/// without '/', memory of at least one and whole pages, regions that tile the memory in order, are
/// whole pages of 4 KiB or 2 MiB, and all the limits. kInvalidArgument, kRegionMismatch,
/// kRegionOverlap, kRegionUnaligned, kTooLarge.
Result<void> check_spec(const SnapshotSpec& spec);
/// What a peer may set: labels that keep the limits, each key once. Snapshots from before may have
/// one twice. kInvalidArgument.
Result<void> check_labels(const std::vector<Label>& labels);
/// The rules of a snapshot's or namespace's name alone. `what` begins the error's text.
Result<void> check_name(const std::string& name, const char* what);
/// Whether it is a name, a colon, and another name.
Result<void> check_tag(const std::string& tag);
/// Whether regions in the given order cover [0, memory) without gap or overlap.
Result<void> check_regions(const std::vector<RegionShape>& regions, ByteCount memory);

Bytes encode_manifest(const Manifest& manifest);
Result<Manifest> decode_manifest(ByteSpan sealed);

}  // namespace thaw
