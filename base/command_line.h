#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/stream.h"
#include <CLI/CLI.hpp>

namespace thaw {

/// Configuration for a program's CLI11 app, called once its options are declared. A value of a
/// program-wide option comes from the flag, else from the environment (THAW_ and the option's
/// name: --server is THAW_SERVER, and must not be empty), else from a TOML file, else it is the
/// default. The file is --config FILE, else $THAW_CONFIG, else /etc/thaw/thaw.toml if that exists.
/// Others must not be able to write it, as read_trusted_file() says.
/// Its keys are the long option names; `section` is the program's own table in it (see
/// base/configuration.h). Options that are not configurable() come from flags alone.
///
/// Included by main files alone: CLI11 costs seconds to compile.
void add_configuration(CLI::App& app, const std::string& section);

/// The words that chose what is to be done, such as "thaw ws show". REQUIRES: `app` has parsed.
std::string command_of(const CLI::App& app);

/// --version, which add_configuration() declares too.
void add_version(CLI::App& app);

/// Declares --tls-cert, --tls-key, --tls-ca and --insecure.
void add_transport_options(CLI::App& app, TransportFlags& flags);

/// Allows the value "", which is refused otherwise: most often a variable of a script is not set.
void allow_empty(CLI::Option& option);

/// Parses, prints --help, --version or an error, and returns the exit code if the program is to
/// end now: 0 after help, 1 if that cannot be printed, 2 after an error in the arguments, in a file
/// or in the environment, such as a variable that is empty. Words reach the options exactly as they
/// are. An error in the arguments names the nearest option or command. A THAW_ variable that looks
/// like a misspelt one is an error, others that are not known are warned of.
std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv);
/// parse_command_line() where the program has a way of its own to tell of errors: `json` is whether
/// --json was given, on the command line, in the environment or in the file, as far as they can be
/// read. `command` is whose --help says more, such as "thaw ws show".
struct UsageError {
  Error error;
  std::string command;
  bool json = false;
};
std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv,
                                      const std::function<void(const UsageError&)>& tell);

}  // namespace thaw
