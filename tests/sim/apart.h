#pragma once

#include <functional>

#include "tests/sim/outcome.h"

namespace thaw::sim {

/// Has `run` done by a process of its own, which takes all with it that dead handlers have left:
/// memory, mappings, descriptors. One that dies of it is a violation.
Outcome run_apart(const std::function<Outcome()>& run);

}  // namespace thaw::sim
