#include "base/nearest.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include <fmt/core.h>

namespace thaw {

namespace {

/// Longer words are compared by their beginnings.
constexpr std::size_t kMostLetters = 64;

}  // namespace

std::size_t typing_distance(std::string_view a, std::string_view b) {
  a = a.substr(0, kMostLetters);
  b = b.substr(0, kMostLetters);
  // Distances of the beginnings of `a` from all beginnings of `b`.
  std::vector<std::size_t> before_last;
  std::vector<std::size_t> last;
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before_last = std::exchange(last, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, change});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
  }
  return row.back();
}

std::optional<std::string_view> nearest(std::string_view word,
                                        std::span<const std::string_view> known) {
  std::string plain(word);
  std::ranges::replace(plain, '_', '-');
  const auto distance = [&](std::string_view each) { return typing_distance(plain, each); };
  const auto found = std::ranges::min_element(known, {}, distance);
  if (found == known.end()) return std::nullopt;
  const std::size_t close = std::max<std::size_t>(2, found->size() / 3);
  if (distance(*found) > close || distance(*found) >= found->size()) return std::nullopt;
  return *found;
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> known) {
  const auto found = nearest(word, known);
  return found ? fmt::format("; did you mean \"{}\"?", *found) : std::string();
}

}  // namespace thaw
