#pragma once

#include <optional>

#include "pageserver/working_sets.h"

namespace thaw::test {

/// Takes a build that is prepared to its end, where nothing comes in between any more.
inline Result<Bytes> finish_build(WorkingSetBuild& build) {
  while (true) {
    if (std::optional<Bytes> set = TRY(build.write())) return *std::move(set);
    TRY(build.prepare());
  }
}

}  // namespace thaw::test
