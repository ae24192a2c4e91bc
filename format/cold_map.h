#pragma once

#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"

namespace thaw {

/// The pages of guest memory that no page table of the guest reaches, as ascending ranges: none is
/// empty, and none begins where the one before it ends. What is cold is kept like all else; it is
/// brought last.
using ColdMap = std::vector<PageRange>;

/// Leaves out the shortest ranges until there are no more than limits::kMaxColdRanges.
void limit_cold_map(ColdMap& map);

/// REQUIRES: a map as above, of memory of at most limits::kMaxImagePages, with at most
/// limits::kMaxColdRanges.
Bytes encode_cold_map(const ColdMap& map);
/// Of a guest with this much memory. kTooLarge, kMalformed, and what open_envelope() says.
Result<ColdMap> decode_cold_map(ByteSpan sealed, PageCount memory);

}  // namespace thaw
