#pragma once

#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// Has commands that change the files of an authority take turns (flock), each from what it reads
/// to what it publishes. The turn ends when the descriptor is closed. `directory` is that of the
/// authority's key, which other users cannot enter: so none of them can hold the turn. kBusy after
/// limits::kAuthorityTurn.
Result<UniqueFd> take_turn(const std::string& directory);

}  // namespace thaw
