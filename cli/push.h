#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/image_walk.h"
#include "cli/page_tables.h"
#include "cli/server_list.h"
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

struct PushResult {
  Manifest manifest;
  std::uint64_t uploaded_bytes = 0;
  unsigned reconnects = 0;
};

/// Pushes a snapshot. When the connection is lost it starts over on a new one, a bounded number of
/// times: pages that had arrived are found by their hash and not sent again.
Result<PushResult> push_snapshot(PushOptions options);

}  // namespace thaw
