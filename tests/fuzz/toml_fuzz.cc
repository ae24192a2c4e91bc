#include <sstream>

#include "base/command_line.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

/// Options of each kind, and a subcommand that was asked for.
struct Program {
  std::string text;
  std::uint64_t number = 0;
  bool flag = false;
  std::vector<std::string> list;
  std::string inner;
  CLI::App app{"fuzz"};

  Program() {
    app.add_option("--text", text);
    app.add_option("--number", number)->check(CLI::Range(1, 1000));
    app.add_flag("--flag", flag);
    app.add_option("--list", list);
    app.add_subcommand("command", "does nothing")->add_option("--inner", inner);
    add_configuration(app, "fuzz");
    std::array<std::string, 2> words{"fuzz", "command"};
    std::array<char*, 2> arguments{words[0].data(), words[1].data()};
    CHECK(!parse_command_line(app, 2, arguments.data()));
  }
};

bool has_option(const CLI::App& app, const CLI::ConfigItem& item) {
  const CLI::App* here = &app;
  for (const std::string& parent : item.parents) here = here->get_subcommand(parent);
  return here->get_option_no_throw("--" + item.name) != nullptr;
}

/// A configuration file is refused, or gives values to options that there are.
void run(ByteSpan input) {
  static const Program program;
  std::istringstream file{std::string(as_text(input))};
  try {
    for (const CLI::ConfigItem& item : program.app.get_config_formatter()->from_config(file)) {
      CHECK(has_option(program.app, item));
    }
  } catch (const CLI::FileError&) {
    return;
  }
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
