#pragma once

#include <functional>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// Opens a door for each order that comes on the connection, or closes what comes with it, in a
/// copy of this process, until the connection ends. `begin_door` is what each copy does first: it
/// gives up rights. Returns in this process alone, and never in a copy. REQUIRES: no other thread.
Result<void> open_ordered_doors(UniqueFd orders, const std::function<Result<void>()>& begin_door);

}  // namespace thaw
