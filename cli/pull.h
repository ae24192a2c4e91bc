#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "cli/server_list.h"
#include "format/manifest.h"

namespace thaw {

struct PullOptions {
  ServerList servers;
  std::string name;
  std::string memory_path;
  std::string state_path;  // empty: not wanted
};

struct PullResult {
  Manifest manifest;
  std::uint64_t received_bytes = 0;
};

/// Writes a snapshot's memory image, sparse, and its state file. Both appear whole under their
/// names, and only after the content was found to be the one that was pushed
/// (kChecksumMismatch otherwise).
Result<PullResult> pull_snapshot(PullOptions options);

}  // namespace thaw
