#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cli/image_walk.h"
#include "cli/page_tables.h"
#include "cli/transfer.h"
#include "format/manifest.h"

namespace thaw {

struct PushOptions {
  ServerList servers;
  std::string name;
  std::string parent;       // snapshot that this one came from; empty: none
  std::string memory_path;  // raw image of guest memory: whole 4 KiB pages
  Holes holes = Holes::kZeros;
  std::string state_path;  // empty: none
  std::vector<RegionShape> regions;
  std::vector<Label> labels;
  /// Without a CR3 nothing is cold. With one, holes stand for zeros.
  Paging paging{};
  ByteCount below_4g{};  // as physical_layout() takes it
};

/// What makes a snapshot suspicious that was pushed all the same.
enum class PushWarning {
  kMemoryChanged,   // while it was read: the VM may not have been paused
  kMemoryReplaced,  // the name is another file's by now
  kStateChanged,
  kStateReplaced,
  kDiffKeepsNothing,    // without a hole no page is the parent's: a copy may have lost the holes
  kDiffChangesNothing,  // all of it is a hole
};
std::string_view warning_name(PushWarning warning);
std::string_view warning_text(PushWarning warning);

struct PushResult {
  Manifest manifest;
  std::uint64_t uploaded_bytes = 0;
  unsigned reconnects = 0;
  std::vector<PushWarning> warnings;
};

/// Pushes a snapshot from files, block devices or streams. When the connection is lost it starts
/// over on a new one: pages that had arrived are found by their hash and not sent again.
Result<PushResult> push_snapshot(PushOptions options);

}  // namespace thaw
