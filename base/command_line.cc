#include "base/command_line.h"

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <iterator>

#include "base/toml.h"

namespace thaw {

namespace {

/// Reads TOML with toml++ and hands CLI11 only what neither a flag nor the environment has set:
/// CLI11 itself would let the file win over the environment.
class TomlConfig : public CLI::Config {
 public:
  explicit TomlConfig(const CLI::App& app) : app_(app) {}

  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return {}; }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    const std::string text{std::istreambuf_iterator<char>(input), {}};
    const auto table = parse_toml(text);
    if (!table) throw_error(table.error());
    std::vector<CLI::ConfigItem> values;
    collect(*table, app_, {}, values);
    return values;
  }

 private:
  [[noreturn]] static void throw_error(const Error& error) {
    throw CLI::FileError("the configuration file is no good: " + error.context());
  }

  static void collect(const toml::table& table, const CLI::App& app,
                      const std::vector<std::string>& parents, std::vector<CLI::ConfigItem>& to) {
    for (const auto& [key, node] : table) {
      const std::string name(key.str());
      if (const toml::table* inner = node.as_table()) {
        // A subcommand that was not asked for takes no values: they would count as calling it.
        const auto asked_for = app.get_subcommands([&](const CLI::App* subcommand) {
          return subcommand->get_name() == name && subcommand->parsed();
        });
        if (asked_for.empty()) continue;
        auto path = parents;
        path.push_back(name);
        collect(*inner, *asked_for.front(), path, to);
        continue;
      }
      const CLI::Option* const option = app.get_option_no_throw("--" + name);
      if (option == nullptr) continue;
      const std::string& variable = option->get_envname();
      if (!variable.empty() && std::getenv(variable.c_str()) != nullptr) continue;
      CLI::ConfigItem item;
      item.parents = parents;
      item.name = name;
      append_values(node, item.inputs);
      to.push_back(std::move(item));
    }
  }

  static void append_values(const toml::node& node, std::vector<std::string>& to) {
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& element : *array) append_values(element, to);
    } else if (const auto text = node.value_exact<std::string>()) {
      to.push_back(*text);
    } else if (const auto flag = node.value_exact<bool>()) {
      to.push_back(*flag ? "true" : "false");
    } else if (const auto number = node.value_exact<std::int64_t>()) {
      to.push_back(std::to_string(*number));
    } else {
      throw_error(refuse_toml(node, "neither text nor a whole number, true or false").error());
    }
  }

  const CLI::App& app_;
};

void name_environment_variables(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty() || option == app.get_help_ptr()) continue;
    const std::string& name = option->get_lnames().front();
    std::string variable = "THAW_";
    for (const char c : name) {
      variable.push_back(c == '-' ? '_'
                                  : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
    }
    option->envname(variable);
  }
}

std::string default_file() {
  const std::string system_file = "/etc/thaw/thaw.toml";
  if (const char* const named = std::getenv("THAW_CONFIG")) return named;
  return std::filesystem::exists(system_file) ? system_file : "";
}

}  // namespace

void add_configuration(CLI::App& app) {
  name_environment_variables(app);
  const std::string file = default_file();
  // A file that was named, or that is there, must be readable and right.
  app.set_config("--config", file, "TOML file with values for these options", !file.empty());
  app.config_formatter(std::make_shared<TomlConfig>(app));
  app.allow_config_extras(CLI::config_extras_mode::ignore);
  app.set_version_flag("--version", THAW_VERSION);
}

void add_transport_options(CLI::App& app, TransportFlags& flags) {
  app.add_option("--tls-cert", flags.tls.certificate,
                 "PEM file with the certificate that this program shows its peers. All three files "
                 "are read again when they have changed");
  app.add_option("--tls-key", flags.tls.key,
                 "PEM file with its key, which others must not be able to read");
  app.add_option("--tls-ca", flags.tls.authority,
                 "PEM file with the certificate of the authority that peers must be of");
  app.add_flag("--insecure", flags.insecure, "Allow plain TCP on other than loopback addresses");
}

std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
}

}  // namespace thaw
