#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace thaw {

/// What one program takes from a configuration file that all of them share. A test holds these
/// lists beside what --help of each program says.
struct KnownProgram {
  std::string_view name;
  std::string_view section;                   // its own, beside the keys at the top
  std::span<const std::string_view> options;  // program-wide, without their dashes
  std::span<const std::string_view> commands;
};

std::span<const KnownProgram> known_programs();

/// The options of all programs, each once.
std::vector<std::string_view> all_known_options();

/// Environment variables beside THAW_ and an option's name that mean something to a part of Thaw;
/// one that ends in "_" stands for all that begin so.
std::span<const std::string_view> other_known_variables();

}  // namespace thaw
