#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace thaw {

/// "3G", "512M", "4096": a size in bytes with an optional binary unit. kInvalidArgument names the
/// form.
Result<std::uint64_t> parse_size(std::string_view text);

}  // namespace thaw
