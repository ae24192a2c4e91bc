#include "tests/support/drawn_image.h"

#include <algorithm>
#include <random>
#include <sstream>

#include "format/wire.h"
#include "tests/support/test_support.h"

namespace thaw::test {

namespace {

constexpr std::uint64_t kSharedPages = 400;
constexpr const char* kSeedsLabel = "seeds";
constexpr std::ptrdiff_t kMostChanges = 3;

/// Every other kind of page compresses.
void fill(std::byte* page, std::uint64_t number) {
  std::uint64_t state = number;
  const std::uint64_t kept = number % 2 == 0 ? 0xff : ~std::uint64_t{0};
  for (std::size_t at = 0; at < kPageBytes; at += 8) {
    state = state * 6364136223846793005 + 1442695040888963407;
    store_le(page + at, (state ^ state >> 29) & kept);
  }
  store_le(page, number);
}

/// Draws anew those of the first `count` pages that `chosen` picks.
template <typename Chosen>
void draw_pages(Bytes& pages, std::size_t count, std::mt19937_64& generator, const Chosen& chosen) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!chosen()) continue;
    std::byte* const page = pages.data() + i * kPageBytes;
    const std::uint64_t kind = pick(generator, 10);
    if (kind < 3) std::fill_n(page, kPageBytes, std::byte{0});
    if (kind == 3) fill(page, generator());
    if (kind >= 4) fill(page, 1 + pick(generator, kSharedPages));
  }
}

}  // namespace

DrawnImage draw_image(const std::string& seeds, const std::string& name) {
  std::istringstream numbers(seeds);
  std::uint64_t seed = 0;
  numbers >> seed;
  std::mt19937_64 generator(seed);
  const std::uint64_t memory = std::uint64_t{16} << pick(generator, 6);
  const std::uint64_t state = pick(generator, 3) == 0 ? 1 + pick(generator, 3 * kPageBytes) : 0;
  DrawnImage image{.spec = {.name = name,
                            .memory = bytes_of({memory}),
                            .state = {state},
                            .regions = {},
                            .labels = {{kSeedsLabel, seeds}},
                            .cpu_vendor = {}},
                   .pages = {},
                   .cold = {}};
  image.pages.resize(bytes_of(image.spec.image_pages()).value);
  draw_pages(image.pages, image.count(), generator, [] { return true; });
  for (char slash = 0; numbers >> slash >> seed;) {
    std::mt19937_64 changes(seed);
    draw_pages(image.pages, memory, changes, [&] { return pick(changes, 4) == 0; });
  }
  if (state > 0) {
    const auto end = static_cast<std::ptrdiff_t>(bytes_of({memory}).value + state);
    std::fill(image.pages.begin() + end, image.pages.end(), std::byte{0});
  }
  if (memory % 3 == 1) image.cold = {{{memory / 2}, {1}}};
  return image;
}

std::string seeds_of(const std::vector<Label>& labels) {
  for (const Label& label : labels) {
    if (label.key == kSeedsLabel) return label.value;
  }
  return {};
}

std::string changed_seeds(const std::string& seeds, std::uint64_t seed) {
  if (std::ranges::count(seeds, '/') == kMostChanges) return {};
  return seeds + "/" + std::to_string(seed);
}

Bytes kept_pages(const DrawnImage& image, const DrawnImage& parent) {
  Bytes kept = empty_bitmap(image.spec.memory_pages().value);
  for (std::size_t i = 0; i < image.spec.memory_pages().value; ++i) {
    if (is_zero_page(image.page(i)) || !std::ranges::equal(image.page(i), parent.page(i))) continue;
    set_bit(kept, i);
  }
  return kept;
}

}  // namespace thaw::test
