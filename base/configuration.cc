#include "base/configuration.h"

#include <algorithm>
#include <cstdlib>
#include <ranges>

#include "base/known_options.h"
#include <CLI/CLI.hpp>

namespace thaw {

namespace {

using Names = std::vector<std::string_view>;

bool contains(std::span<const std::string_view> names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

/// CLI11 keeps groups of options as subcommands without a name.
bool is_group(const CLI::App* app) { return app->get_name().empty(); }
bool is_command(const CLI::App* app) { return !is_group(app); }

bool is_flag(CLI::Option& option) { return option.get_expected_min() == 0; }

/// The options of an app that a file may set, those of its groups too.
std::vector<CLI::Option*> options_of(CLI::App& app) {
  std::vector<CLI::Option*> options = app.get_options();
  for (CLI::App* const group : app.get_subcommands(is_group)) {
    for (CLI::Option* const option : group->get_options()) options.push_back(option);
  }
  std::erase_if(options, [&](CLI::Option* option) {
    return option->get_lnames().empty() || !option->get_configurable() ||
           option == app.get_help_ptr() || option == app.get_config_ptr();
  });
  return options;
}

std::string_view name_of(CLI::Option& option) { return option.get_lnames().front(); }

CLI::Option* find_option(CLI::App& app, std::string_view name) {
  const auto options = options_of(app);
  const auto found = std::ranges::find(options, name, [](auto* each) { return name_of(*each); });
  return found == options.end() ? nullptr : *found;
}

Names names_of_options(CLI::App& app) {
  Names names;
  for (CLI::Option* const option : options_of(app)) names.push_back(name_of(*option));
  return names;
}

CLI::App* find_command(CLI::App& app, std::string_view name) {
  const auto found = app.get_subcommands(
      [&](const CLI::App* each) { return is_command(each) && each->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

Names names_of_commands(CLI::App& app) {
  Names names;
  for (const CLI::App* const each : app.get_subcommands(is_command)) {
    names.push_back(each->get_name());
  }
  return names;
}

/// Why a text is no value of an option; empty: it is one.
std::string objection(CLI::Option& option, std::string text) {
  try {
    for (int i = 0;; ++i) {
      std::string found = (*option.get_validator(i))(text);
      if (!found.empty()) return found;
    }
  } catch (const CLI::ValidationError& error) {
    return error.what();
  } catch (const CLI::OptionNotFound&) {
    return {};  // that was the last one
  }
}

/// What an option of this type takes, in words and as it stands in the file.
Result<std::string> text_of(const toml::node& node, CLI::Option& option) {
  const std::string type_name = option.get_type_name();
  const std::string_view type = std::string_view(type_name).substr(0, type_name.find(':'));
  const auto text = node.value_exact<std::string>();
  const auto number = node.value_exact<std::int64_t>();
  const bool takes_number = type != "TEXT";
  const bool takes_text = type != "UINT" && type != "INT";
  if (number && takes_number) {
    if (*number >= 0 || type != "UINT") return std::to_string(*number);
    return refuse_toml(node, fmt::format("{} must not be negative", name_of(option)));
  }
  if (text && takes_text) return *text;
  const char* const wanted = !takes_number ? "a string"
                             : takes_text  ? "a string or a whole number"
                                           : "a whole number";
  return refuse_toml(node, fmt::format("{} takes {}", name_of(option), wanted));
}

Result<void> append_value(const toml::node& node, CLI::Option& option,
                          std::vector<std::string>& to) {
  std::string text = TRY(text_of(node, option));
  const std::string objected = objection(option, text);
  if (!objected.empty()) return refuse_toml(node, fmt::format("{}: {}", name_of(option), objected));
  to.push_back(std::move(text));
  return {};
}

/// Nothing for a flag that is off, because it is off without the file.
Result<std::vector<std::string>> values_of(const toml::node& node, CLI::Option& option) {
  std::vector<std::string> values;
  if (is_flag(option)) {
    const auto on = node.value_exact<bool>();
    if (!on) return refuse_toml(node, fmt::format("{} is true or false", name_of(option)));
    if (*on) values.emplace_back("true");
    return values;
  }
  const toml::array* const array = node.as_array();
  if (array == nullptr) {
    TRY(append_value(node, option, values));
    return values;
  }
  if (option.get_items_expected_max() == 1) {
    return refuse_toml(node, fmt::format("{} takes one value and no list", name_of(option)));
  }
  if (array->empty()) return refuse_toml(node, fmt::format("{} is empty", name_of(option)));
  for (const toml::node& element : *array) TRY(append_value(element, option, values));
  return values;
}

bool environment_has(CLI::Option& option) {
  const std::string& variable = option.get_envname();
  const char* const value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  return value != nullptr;
}

/// Adds a value, in place of one that came before.
Result<void> take(const toml::node& node, CLI::Option& option, const std::vector<std::string>& path,
                  std::vector<CLI::ConfigItem>& to) {
  std::vector<std::string> values = TRY(values_of(node, option));
  CLI::ConfigItem item;
  item.parents = path;
  item.name = name_of(option);
  item.inputs = std::move(values);
  std::erase_if(to, [&](const CLI::ConfigItem& other) {
    return other.name == item.name && other.parents == item.parents;
  });
  if (!item.inputs.empty() && !environment_has(option)) to.push_back(std::move(item));
  return {};
}

}  // namespace

Configuration::Configuration(CLI::App& app, std::string section)
    : app_(app), section_(std::move(section)) {}

Result<std::vector<CLI::ConfigItem>> Configuration::read(const toml::table& file) const {
  Items items;
  TRY(read_top(file, items));
  if (const toml::node* const section = file.get(section_)) {
    TRY(read_section(*section->as_table(), items));
  }
  return items;
}

bool Configuration::has_flag(const toml::table& file, const std::string& name) const {
  const auto own = file[section_][name].value_exact<bool>();
  return own ? *own : file[name].value_exact<bool>().value_or(false);
}

Result<void> Configuration::read_top(const toml::table& file, Items& to) const {
  const std::vector<std::string_view> options = all_known_options();
  Names sections{section_};
  Names commands = names_of_commands(app_);
  for (const KnownProgram& program : known_programs()) {
    sections.push_back(program.section);
    commands.insert(commands.end(), program.commands.begin(), program.commands.end());
  }
  for (const auto& [key, node] : file) {
    const std::string_view name = key.str();
    CLI::Option* const option = find_option(app_, name);
    if (const toml::table* const table = node.as_table()) {
      CLI::App* const command = find_command(app_, name);
      if (name == section_) continue;
      if (contains(sections, name)) {
        TRY(check_other_section(*table, name));
      } else if (command != nullptr) {
        TRY(read_command(*table, *command, {command->get_name()}, to));
      } else if (!contains(commands, name)) {
        sections.insert(sections.end(), commands.begin(), commands.end());
        return refuse_unknown(key, "section", sections);
      }
    } else if (option != nullptr) {
      TRY(take(node, *option, {}, to));
    } else if (contains(sections, name)) {
      return refuse_toml(key, fmt::format("\"{0}\" is a section: [{0}]", name));
    } else if (!contains(options, name)) {
      Names known = names_of_options(app_);
      known.insert(known.end(), options.begin(), options.end());
      return refuse_unknown(key, "key", known);
    }
  }
  return {};
}

Result<void> Configuration::read_section(const toml::table& section, Items& to) const {
  for (const auto& [key, node] : section) {
    const std::string_view name = key.str();
    if (const toml::table* const table = node.as_table()) {
      CLI::App* const command = find_command(app_, name);
      if (command == nullptr) return refuse_unknown(key, "section", names_of_commands(app_));
      TRY(read_command(*table, *command, {command->get_name()}, to));
    } else if (CLI::Option* const option = find_option(app_, name)) {
      TRY(take(node, *option, {}, to));
    } else {
      return refuse_unknown(key, "key", names_of_options(app_));
    }
  }
  return {};
}

Result<void> Configuration::read_command(const toml::table& table, CLI::App& command, Path path,
                                         Items& to) const {
  for (const auto& [key, node] : table) {
    const std::string_view name = key.str();
    if (const toml::table* const inner = node.as_table()) {
      CLI::App* const subcommand = find_command(command, name);
      if (subcommand == nullptr) return refuse_unknown(key, "section", names_of_commands(command));
      Path below = path;
      below.push_back(subcommand->get_name());
      TRY(read_command(*inner, *subcommand, std::move(below), to));
    } else if (CLI::Option* const option = find_option(command, name)) {
      Items checked;
      // A subcommand that was not asked for takes no values: they would count as calling it.
      TRY(take(node, *option, path, command.parsed() ? to : checked));
    } else {
      return refuse_unknown(key, "key", names_of_options(command));
    }
  }
  return {};
}

Result<void> Configuration::check_other_section(const toml::table& table,
                                                std::string_view section) const {
  const auto program = std::ranges::find(known_programs(), section, &KnownProgram::section);
  for (const auto& [key, node] : table) {
    const bool is_table = node.is_table();
    const auto known = is_table ? program->commands : program->options;
    if (!contains(known, key.str()))
      return refuse_unknown(key, is_table ? "section" : "key", known);
  }
  return {};
}

}  // namespace thaw
