#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/byte_size.h"
#include "base/error.h"
#include "base/file.h"
#include "format/manifest.h"

namespace thaw {

/// What options mean whose values have a form of their own; kInvalidArgument names the form.

/// "90m", "36h", "7d", "3600": a time in seconds with an optional unit.
Result<std::uint64_t> parse_duration(std::string_view text);
/// "SIZE" or "SIZE:PAGE_SIZE", one for each region in order.
Result<std::vector<RegionShape>> parse_regions(const std::vector<std::string>& texts);
/// "KEY=VALUE" each, and each key once.
Result<std::vector<Label>> parse_labels(const std::vector<std::string>& texts);
/// "UID:GID".
Result<FileOwner> parse_owner(std::string_view text);

}  // namespace thaw
