#pragma once

#include <string>

#include "format/store_id.h"

namespace thaw {

/// Where a snapshot comes from. Ids of snapshots and of chunks mean something inside it alone: a
/// page server that was set up anew gives out the same numbers again, and so does another
/// namespace.
struct Origin {
  StoreId store;
  std::string name_space;
  friend auto operator<=>(const Origin&, const Origin&) = default;
};

}  // namespace thaw
