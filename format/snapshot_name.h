#pragma once

#include <string>

#include "base/error.h"

namespace thaw {

/// How a command names a snapshot.
struct SnapshotName {
  std::string name;     // its own, or a tag
  std::string content;  // what its content hash has to be, in lower-case hex; empty: any
};
/// "NAME" or "NAME@sha256:HEX", with the 64 digits of a content hash. kInvalidArgument where these
/// are no such digits.
Result<SnapshotName> parse_snapshot_name(const std::string& text);

}  // namespace thaw
