#include "base/command_line.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <ranges>
#include <sstream>

#include <unistd.h>

#include "base/configuration.h"
#include "base/input_file.h"
#include "base/known_options.h"
#include "base/limits.h"
#include "base/nearest.h"
#include "base/output.h"
#include "base/path_target.h"
#include "base/printable.h"
#include "base/private_files.h"

namespace thaw {

namespace {

constexpr std::string_view kPrefix = "THAW_";
constexpr const char* kConfigVariable = "THAW_CONFIG";
constexpr const char* kMayBeEmpty = "may be empty";
/// Stands behind words that begin with "[", which CLI11 takes apart when they end with "]".
constexpr char kAsItIs = '\x01';

[[noreturn]] void refuse(const std::string& text) { throw CLI::ValidationError(text); }

/// What a descriptor of this program leads to, maybe a pipe, is of the program that started it.
Result<std::string> read_configuration(const std::string& name) {
  if (!TRY(find_target(name, STDIN_FILENO)).descriptor) {
    return read_trusted_file(name, limits::kMaxConfigurationBytes);
  }
  const Bytes text = TRY(read_input(name, {limits::kMaxConfigurationBytes}));
  return std::string(as_text(text));
}

/// How CLI11 reads the file.
class TomlConfig : public CLI::Config {
 public:
  TomlConfig(CLI::App& app, const std::string& section) : app_(app), configuration_(app, section) {}

  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return {}; }

  /// Reads the file itself: who may write it says what programs allow.
  std::vector<CLI::ConfigItem> from_config(std::istream&) const override {
    const auto text = read_configuration(file_name());
    if (!text) throw CLI::FileError(text.error().context());
    const auto table = parse_toml(*text);
    if (!table) throw_error(table.error());
    auto values = configuration_.read(*table);
    if (!values) throw_error(values.error());
    return *std::move(values);
  }

  bool has_flag(const std::string& name) const {
    const auto text = read_configuration(file_name());
    const auto table = text ? parse_toml(*text) : std::unexpected(text.error());
    return table && configuration_.has_flag(*table, name);
  }

 private:
  std::string file_name() const { return app_.get_config_ptr()->as<std::string>(); }
  [[noreturn]] void throw_error(const Error& error) const {
    throw CLI::FileError(file_name() + ": " + error.context());
  }

  CLI::App& app_;
  const Configuration configuration_;
};

std::string variable_of(std::string_view option) {
  std::string variable(kPrefix);
  for (const char c : option) {
    variable.push_back(c == '-' ? '_'
                                : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  }
  return variable;
}

void name_environment_variables(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty() || option == app.get_help_ptr()) continue;
    if (option->get_configurable()) option->envname(variable_of(option->get_lnames().front()));
  }
}

std::string value_of_variable(const std::string& name) {
  const char* const value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

/// Of those that the program reads: one that is set and says nothing.
std::optional<std::string> empty_variable(const CLI::App& app) {
  std::vector<std::string> names{kConfigVariable};
  for (const CLI::Option* const option : app.get_options()) {
    if (!option->get_envname().empty()) names.push_back(option->get_envname());
  }
  for (std::string& name : names) {
    const char* const value = std::getenv(name.c_str());
    if (value != nullptr && *value == '\0') return std::move(name);
  }
  return std::nullopt;
}

std::string about_empty(const std::string& variable) {
  return variable + " is empty: unset it or give it a value";
}

/// A file that is there but cannot be looked at counts: what it says may matter.
std::string default_file() {
  const std::string system_file = "/etc/thaw/thaw.toml";
  const std::string named = value_of_variable(kConfigVariable);
  if (!named.empty()) return named;
  std::error_code error;
  const bool missing = !std::filesystem::exists(system_file, error) && !error;
  return missing ? "" : system_file;
}

/// Not known to any program or part of Thaw.
std::vector<std::string> unknown_variables(std::span<const std::string_view> known) {
  std::vector<std::string> unknown;
  for (char** each = environ; *each != nullptr; ++each) {
    const std::string_view whole(*each);
    const std::string_view name = whole.substr(0, whole.find('='));
    const bool has_value = name.size() + 1 < whole.size();
    const bool is_known = std::ranges::any_of(known, [&](std::string_view one) {
      return name == one || (one.ends_with('_') && name.starts_with(one));
    });
    if (name.starts_with(kPrefix) && has_value && !is_known) unknown.emplace_back(name);
  }
  return unknown;
}

/// Kubernetes and build systems set THAW_ variables of their own, so only what looks like a typo is
/// an error.
void check_environment(CLI::App& app) {
  if (const auto empty = empty_variable(app)) refuse(about_empty(*empty));
  std::vector<std::string> names;
  for (const std::string_view option : all_known_options()) names.push_back(variable_of(option));
  for (const CLI::Option* const option : app.get_options()) names.push_back(option->get_envname());
  std::vector<std::string_view> known(names.begin(), names.end());
  const auto others = other_known_variables();
  known.insert(known.end(), others.begin(), others.end());
  std::erase(known, "");
  for (const std::string& name : unknown_variables(known)) {
    const auto distance = [&](std::string_view one) { return typing_distance(name, one); };
    const std::string_view closest = *std::ranges::min_element(known, {}, distance);
    constexpr std::size_t kShortName = 9;  // "THAW_RUN" is one letter from too many others
    const std::size_t typo = closest.size() < kShortName ? 1 : 2;
    if (distance(closest) <= typo) {
      refuse(fmt::format("unknown environment variable {}; did you mean {}?", name, closest));
    }
    print_err("{}: the environment variable {} means nothing to Thaw\n",
              std::filesystem::path(app.get_name()).filename().string(), printable(name));
  }
}

/// Has every option get its words as they are, and none that is empty by mistake.
void take_words_as_they_are(CLI::App& app) {
  for (CLI::Option* const option : app.get_options()) {
    if (option->get_expected_min() == 0 || option == app.get_config_ptr()) continue;
    bool may_be_empty = true;
    try {
      option->get_validator(kMayBeEmpty);
    } catch (const CLI::OptionNotFound&) {
      may_be_empty = false;
    }
    // One value each time; the next word may be the command's.
    if (!option->get_positional()) option->allow_extra_args(false);
    const std::string name = option->get_name();
    option->transform(CLI::Validator(
        [may_be_empty, name](std::string& word) {
          if (word.starts_with('[') && word.ends_with(kAsItIs)) word.pop_back();
          return word.empty() && !may_be_empty ? name + " is empty" : std::string();
        },
        ""));
  }
  for (CLI::App* const each : app.get_subcommands([](const CLI::App*) { return true; })) {
    take_words_as_they_are(*each);
  }
}

/// CLI11 would take the next word for the value of "--option=".
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv, argv + argc);
  for (std::size_t i = 1; i < words.size() && words[i] != "--"; ++i) {
    const std::size_t equals = words[i].find('=');
    if (words[i].starts_with("--") && equals + 1 == words[i].size()) {
      refuse(words[i].substr(0, equals) + " is empty");
    }
  }
  for (std::string& word : words) {
    if (word.starts_with('[')) word.push_back(kAsItIs);
  }
  return words;
}

/// The command that the words chose so far, from the program inwards.
std::vector<const CLI::App*> chosen_apps(const CLI::App& app) {
  std::vector<const CLI::App*> chosen{&app};
  while (!chosen.back()->get_subcommands().empty()) {
    chosen.push_back(chosen.back()->get_subcommands().back());
  }
  return chosen;
}

std::vector<std::string> option_names(const std::vector<const CLI::App*>& apps) {
  std::vector<std::string> names;
  for (const CLI::App* const app : apps) {
    for (const CLI::Option* const option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
  }
  return names;
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* const each : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!each->get_name().empty()) names.push_back(each->get_name());  // it may be a group
  }
  return names;
}

/// What is wrong with a word that no option or command has taken.
std::string about_unexpected(const CLI::App& app, const std::string& word) {
  const std::vector<const CLI::App*> apps = chosen_apps(app);
  const std::string name = word.substr(0, word.find('='));
  const bool is_option = name.size() > 1 && name.starts_with('-');
  const auto names = is_option ? option_names(apps) : command_names(*apps.back());
  if (names.empty()) return fmt::format("\"{}\" is one argument too many", word);
  const std::vector<std::string_view> known(names.begin(), names.end());
  return fmt::format("there is no {} \"{}\"{}", is_option ? "option" : "command", name,
                     did_you_mean(name, known));
}

/// What was wrong with the arguments. A word that means nothing may be why another is missing.
std::string text_of(const CLI::App& app, const CLI::ParseError& error) {
  std::string text = error.what();
  const auto code = static_cast<CLI::ExitCodes>(error.get_exit_code());
  const auto empty = empty_variable(app);
  if (code == CLI::ExitCodes::RequiredError && empty) text = about_empty(*empty);
  if (code == CLI::ExitCodes::ExtrasError || code == CLI::ExitCodes::RequiredError) {
    const std::vector<std::string> unexpected = app.remaining(true);
    if (!unexpected.empty()) text = about_unexpected(app, unexpected.front());
  }
  std::erase(text, kAsItIs);
  return text;
}

bool is_off(const std::string& value) {
  return value.empty() || value == "0" || value == "false" || value == "off" || value == "no";
}

/// Whether --json was given, of arguments that are wrong.
bool wants_json(const CLI::App& app, int argc, char** argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    const std::string_view word(argv[i]);
    if (word == "--json") return true;
    if (word.starts_with("--json=")) return !is_off(std::string(word.substr(7)));
  }
  const std::string variable = value_of_variable("THAW_JSON");
  if (!variable.empty()) return !is_off(variable);
  const auto* const file = dynamic_cast<const TomlConfig*>(app.get_config_formatter().get());
  return file != nullptr && file->has_flag("json");
}

}  // namespace

void add_configuration(CLI::App& app, const std::string& section) {
  name_environment_variables(app);
  const std::string file = default_file();
  // A file that was named, or that is there, must be readable and right.
  app.set_config("--config", file,
                 "TOML file with values for these options; $THAW_CONFIG names one, too",
                 !file.empty())
      ->type_name("FILE");
  app.config_formatter(std::make_shared<TomlConfig>(app, section));
  add_version(app);
}

void add_version(CLI::App& app) { app.set_version_flag("--version", THAW_VERSION); }

void add_transport_options(CLI::App& app, TransportFlags& flags) {
  app.add_option("--tls-cert", flags.tls.certificate,
                 "PEM file with the certificate that this program shows its peers. All these files "
                 "are read again when they have changed");
  app.add_option("--tls-key", flags.tls.key,
                 "PEM file with its key, which others must not be able to read");
  app.add_option("--tls-ca", flags.tls.authority,
                 "PEM file with the certificate of the authority that peers must be of");
  app.add_option(
      "--tls-crl", flags.tls.revoked,
      "PEM file with the authority's list of revoked certificates (CRL); peers in it are "
      "refused");
  app.add_flag(
      "--insecure", flags.insecure,
      "Allow plain TCP without TLS, on loopback, too: every program that reaches the port may "
      "read and change everything");
}

void allow_empty(CLI::Option& option) {
  option.check(CLI::Validator([](std::string&) { return std::string(); }, "", kMayBeEmpty));
}

std::string command_of(const CLI::App& app) {
  std::string command = std::filesystem::path(app.get_name()).filename().string();
  for (const CLI::App* const each : chosen_apps(app) | std::views::drop(1)) {
    command += " " + each->get_name();
  }
  return command;
}

std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv) {
  return parse_command_line(app, argc, argv, [&](const UsageError& usage) {
    print_err("{}\n`{} --help` says what there is.\n", printable(usage.error.context()),
              printable(usage.command));
  });
}

std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv,
                                      const std::function<void(const UsageError&)>& tell) {
  try {
    take_words_as_they_are(app);
    const std::vector<std::string> words = words_of(argc, argv);
    std::vector<const char*> pointers;
    for (const std::string& word : words) pointers.push_back(word.c_str());
    app.parse(argc, pointers.data());
    check_environment(app);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      std::ostringstream help;
      std::ostringstream nothing;
      app.exit(error, help, nothing);
      print_text(help.str());
      return finish_output(0);
    }
    tell({Error(ErrorCode::kInvalidArgument, text_of(app, error)), command_of(app),
          wants_json(app, argc, argv)});
    return finish_output(2);
  }
}

}  // namespace thaw
