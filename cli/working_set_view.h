#pragma once

#include "base/error.h"
#include "format/manifest.h"
#include "format/page_client.h"
#include "format/wire.h"
#include "format/working_set.h"

namespace thaw {

/// All that the page server can say of a snapshot's working set. A value.
struct WorkingSetView {
  Manifest snapshot;
  WorkingSet set;
  message::WorkingSetReport report;

  std::uint64_t pages_of(TouchClass when) const;
  /// Pages that the packs hold; the others of the set are zero.
  std::uint64_t packed_pages() const;
};

/// kNotFound when there is no such snapshot or it has no working set.
Result<WorkingSetView> fetch_working_set(PageClient& client, const Manifest& snapshot);

}  // namespace thaw
