#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "format/chunk.h"
#include "format/cold_map.h"
#include "format/manifest.h"

namespace thaw::test {

/// A small image that its seeds describe wholly: 16 to 512 pages of zeros, of a few hundred that
/// many images share, and of its own. Some have a state file behind the memory.
struct DrawnImage {
  SnapshotSpec spec;  // carries the seeds as a label
  Bytes pages;        // of memory and state, padded
  ColdMap cold;       // of some

  std::size_t count() const { return pages.size() / kPageBytes; }
  PageSpan page(std::size_t i) const { return PageSpan(pages.data() + i * kPageBytes, kPageBytes); }
};

/// `seeds` are numbers with slashes between them: the image of the first, changed in some pages by
/// each that follows.
DrawnImage draw_image(const std::string& seeds, const std::string& name);

/// The seeds that the labels of a snapshot name; empty when they do not.
std::string seeds_of(const std::vector<Label>& labels);
/// Another generation of images; nothing when there were enough of them.
std::string changed_seeds(const std::string& seeds, std::uint64_t seed);

/// Which pages of memory are as in the parent and not zero, as an offer of all of it says it.
Bytes kept_pages(const DrawnImage& image, const DrawnImage& parent);

}  // namespace thaw::test
