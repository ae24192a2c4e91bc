#pragma once

#include <string>

#include "base/error.h"

namespace thaw {

/// Whether listen_unix() would succeed now as far as can be seen; nothing is made or removed.
Result<void> check_listen_path(const std::string& path);

}  // namespace thaw
