#pragma once

#include <optional>

#include "format/wire.h"
#include "pageserver/job.h"
#include "pageserver/store.h"

namespace thaw {

/// What one snapshot of a namespace takes up, or all of them together; message::Usage says what is
/// counted. Reads every page map of the namespace, and the chunks that are counted. kNotFound.
Result<message::Usage> usage(Store& store, NamespaceId in, std::optional<SnapshotId> of,
                             JobControl& control);

}  // namespace thaw
