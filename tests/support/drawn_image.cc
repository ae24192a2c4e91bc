#include "tests/support/drawn_image.h"

#include <cstdlib>
#include <random>

#include "tests/support/test_support.h"

namespace thaw::test {

namespace {

constexpr std::uint64_t kSharedPages = 400;
constexpr const char* kSeedLabel = "seed";

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

}  // namespace

DrawnImage draw_image(std::uint64_t seed, const std::string& name) {
  std::mt19937_64 generator(seed);
  const std::uint64_t memory = std::uint64_t{16} << pick(generator, 6);
  const std::uint64_t state = pick(generator, 3) == 0 ? 1 + pick(generator, 3 * kPageBytes) : 0;
  DrawnImage image{.spec = {.name = name,
                            .memory = bytes_of({memory}),
                            .state = {state},
                            .regions = {},
                            .labels = {{kSeedLabel, std::to_string(seed)}},
                            .cpu_vendor = {}},
                   .pages = {},
                   .cold = {}};
  image.pages.resize(bytes_of(image.spec.image_pages()).value);
  for (std::size_t i = 0; i < image.count(); ++i) {
    std::byte* const page = image.pages.data() + i * kPageBytes;
    const std::uint64_t kind = pick(generator, 10);
    if (kind >= 4) fill(page, 1 + pick(generator, kSharedPages));
    if (kind == 3) fill(page, generator());
  }
  const std::size_t end = bytes_of({memory}).value + state;
  if (state > 0)
    std::fill(image.pages.begin() + static_cast<std::ptrdiff_t>(end), image.pages.end(),
              std::byte{0});
  if (seed % 2 == 0) image.cold = {{{seed % memory}, {1}}};
  return image;
}

std::uint64_t seed_of(const Manifest& manifest) {
  for (const Label& label : manifest.spec.labels) {
    if (label.key == kSeedLabel) return std::strtoull(label.value.c_str(), nullptr, 10);
  }
  return 0;
}

}  // namespace thaw::test
