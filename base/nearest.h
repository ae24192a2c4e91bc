#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace thaw {

/// How many letters must be put in, taken out, changed or swapped with their neighbours to make one
/// word of the other.
std::size_t typing_distance(std::string_view a, std::string_view b);

/// The known word that was most likely meant; nothing when no word is close.
std::optional<std::string_view> nearest(std::string_view word,
                                        std::span<const std::string_view> known);

/// `; did you mean "policy"?`, or nothing.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> known);

}  // namespace thaw
