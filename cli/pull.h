#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "cli/transfer.h"
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
  unsigned reconnects = 0;
};

/// Writes a snapshot's memory image, sparse where it is a file, and its state file, as OutputFile
/// does: files appear whole, and only after the content was found to be the one that was pushed
/// (kChecksumMismatch otherwise).
///
/// When the connection is lost it goes on where it was, with the same content or not at all:
/// kNotFound when the snapshot was deleted or replaced meanwhile.
Result<PullResult> pull_snapshot(PullOptions options);

}  // namespace thaw
