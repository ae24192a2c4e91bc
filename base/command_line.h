#pragma once

#include <optional>

#include "base/stream.h"
#include <CLI/CLI.hpp>

namespace thaw {

/// Configuration for a program's CLI11 app, called once its options are declared. A value of a
/// program-wide option comes from the flag, else from the environment (THAW_ and the option's
/// name: --server is THAW_SERVER), else from a TOML file, else it is the default. The file is
/// --config FILE, else $THAW_CONFIG, else /etc/thaw/thaw.toml if that exists.
/// Its keys are the long option names; a subcommand's own options stand in a table of its name.
/// Options of other programs may stand in the same file: what this app does not know is ignored,
/// but a value of the wrong form is refused.
///
/// Included by main files alone: CLI11 costs seconds to compile.
void add_configuration(CLI::App& app);

/// Declares --tls-cert, --tls-key, --tls-ca and --insecure.
void add_transport_options(CLI::App& app, TransportFlags& flags);

/// Parses, prints --help, --version or an error, and returns the exit code if the program is to
/// end now: 0 after help, 2 after an error in the arguments.
std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv);

}  // namespace thaw
