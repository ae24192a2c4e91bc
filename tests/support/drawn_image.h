#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "format/chunk.h"
#include "format/cold_map.h"
#include "format/manifest.h"

namespace thaw::test {

/// A small image that its seed describes wholly: 16 to 512 pages of zeros, of a few hundred that
/// many images share, and of its own. Some have a state file behind the memory.
struct DrawnImage {
  SnapshotSpec spec;  // carries the seed as a label
  Bytes pages;        // of memory and state, padded
  ColdMap cold;       // of some

  std::size_t count() const { return pages.size() / kPageBytes; }
  PageSpan page(std::size_t i) const { return PageSpan(pages.data() + i * kPageBytes, kPageBytes); }
};
DrawnImage draw_image(std::uint64_t seed, const std::string& name);

/// The seed that a snapshot's labels name; 0 when they do not.
std::uint64_t seed_of(const Manifest& manifest);

}  // namespace thaw::test
