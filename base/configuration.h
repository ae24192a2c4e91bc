#pragma once

#include <string>
#include <vector>

#include "base/toml.h"
namespace CLI {
class App;
struct ConfigItem;
}  // namespace CLI

namespace thaw {

/// The configuration file as one program reads it. One file serves all programs of a host: keys at
/// its top are for each program that has such an option, keys in a program's section for that
/// program alone, and these win. The options of a subcommand stand in a table of its name, in the
/// section or at the top.
///
/// A typo must not switch off what it misspells, so nothing is ignored but what another program
/// knows: an unknown key or section, and a value of a wrong type or out of range, are
/// kInvalidArgument with the place and the nearest name.
class Configuration {
 public:
  /// `section` is that of the app, whose options and subcommands are declared. Both must stay.
  Configuration(CLI::App& app, std::string section);

  /// The values for what neither a flag of this run nor the environment has set. CLI11 itself would
  /// let the file win over the environment.
  Result<std::vector<CLI::ConfigItem>> read(const toml::table& file) const;

  /// Whether a flag is set in the file, which may be wrong elsewhere.
  bool has_flag(const toml::table& file, const std::string& name) const;

 private:
  using Items = std::vector<CLI::ConfigItem>;
  using Path = std::vector<std::string>;

  Result<void> read_top(const toml::table& file, Items& to) const;
  Result<void> read_section(const toml::table& section, Items& to) const;
  Result<void> read_command(const toml::table& table, CLI::App& command, Path path,
                            Items& to) const;
  Result<void> check_other_section(const toml::table& table, std::string_view section) const;

  CLI::App& app_;
  const std::string section_;
};

}  // namespace thaw
