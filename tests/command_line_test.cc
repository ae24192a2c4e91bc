// What programs make of their words, their environment and the configuration file that they share.

#include "base/command_line.h"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <sstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/known_options.h"
#include "base/nearest.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

TEST(Nearest, TypingDistanceCountsLetters) {
  EXPECT_EQ(typing_distance("policy", "policy"), 0u);
  EXPECT_EQ(typing_distance("polcy", "policy"), 1u);
  EXPECT_EQ(typing_distance("ploicy", "policy"), 1u) << "neighbours that are swapped";
  EXPECT_EQ(typing_distance("", "policy"), 6u);
  EXPECT_EQ(typing_distance("policy", ""), 6u);
  EXPECT_EQ(typing_distance("store", "state"), 2u);
}

TEST(Nearest, IsNothingForAWordOfItsOwn) {
  const std::vector<std::string_view> known{"policy", "listen", "max-connections"};
  EXPECT_EQ(did_you_mean("polcy", known), "; did you mean \"policy\"?");
  EXPECT_EQ(nearest("max_conections", known), "max-connections");
  EXPECT_EQ(nearest("frobnicate", known), std::nullopt);
  EXPECT_EQ(nearest("", known), std::nullopt);
  EXPECT_EQ(nearest("x", {}), std::nullopt);
  EXPECT_EQ(nearest(std::string(1u << 20, 'x'), known), std::nullopt);
}

/// A program with options of each kind, which passes for the page server.
class CommandLineOptionsTest : public testing::Test {
 protected:
  struct Options {
    std::string policy;
    std::vector<std::string> servers;
    unsigned connections = 0;
    std::string spin;
    bool verbose = false;
    bool check = false;
    std::string name;
    std::vector<std::string> labels;
    std::vector<std::string> words;
    std::string empty = "default";
  };

  /// What is said to be wrong; nothing when nothing is.
  std::optional<std::string> parse(std::vector<std::string> words) {
    options_ = {};
    CLI::App app("test", "test");
    app.add_option("--policy", options_.policy);
    app.add_option("--server", options_.servers)->take_all()->delimiter(',');
    app.add_option("--max-connections", options_.connections)->check(CLI::Range(1, 100));
    app.add_option("--spin-us", options_.spin)->type_name("US|auto");
    app.add_flag("--verbose", options_.verbose);
    app.add_flag("--check", options_.check)->configurable(false);
    allow_empty(*app.add_option("--empty", options_.empty));
    CLI::App* const push = app.add_subcommand("push", "");
    push->fallthrough();
    push->add_option("name", options_.name)->required();
    push->add_option("--label", options_.labels);
    push->add_option("words", options_.words);
    CLI::App* const ws = app.add_subcommand("ws", "");
    ws->add_subcommand("plot", "")->add_option_group("what")->add_option("--trace", options_.name);
    add_configuration(app, "pageserver");
    words.insert(words.begin(), "test");
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    std::optional<std::string> wrong;
    const auto exit_code = parse_command_line(app, static_cast<int>(pointers.size()),
                                              pointers.data(), [&](const UsageError& usage) {
                                                wrong = usage.error.context();
                                                json_ = usage.json;
                                                command_ = usage.command;
                                              });
    EXPECT_EQ(exit_code.has_value(), wrong.has_value());
    EXPECT_EQ(exit_code.value_or(2), 2);
    return wrong;
  }
  std::optional<std::string> read(const std::string& text, std::vector<std::string> words = {}) {
    write_file(file_, as_bytes(text));
    words.insert(words.begin(), {"--config", file_});
    return parse(words);
  }
  /// What is wrong with the file, without the file's name.
  std::string refusal(const std::string& text) {
    std::string wrong = read(text).value_or("nothing");
    const std::string name = file_ + ": ";
    if (wrong.starts_with(name)) wrong.erase(0, name.size());
    return wrong;
  }

  ScratchDirectory directory_;
  const std::string file_ = directory_.path("t.toml");
  Options options_;
  bool json_ = false;
  std::string command_;
};

TEST_F(CommandLineOptionsTest, AWordWithoutAMeaningIsNamedWithTheNearest) {
  EXPECT_EQ(parse({"--sever", "a:1", "push", "n"}),
            "there is no option \"--sever\"; did you mean \"--server\"?");
  EXPECT_EQ(parse({"push", "--lable=x"}),
            "there is no option \"--lable\"; did you mean \"--label\"?")
      << "rather than that the name is missing";
  EXPECT_EQ(command_, "test push");
  EXPECT_EQ(parse({"psh", "n"}), "there is no command \"psh\"; did you mean \"push\"?");
  EXPECT_EQ(command_, "test");
  EXPECT_EQ(parse({"ws", "plto"}), "there is no command \"plto\"; did you mean \"plot\"?");
  EXPECT_EQ(command_, "test ws");
  EXPECT_EQ(parse({"ws", "plot", "x"}), "\"x\" is one argument too many");
  EXPECT_EQ(parse({"frobnicate"}), "there is no command \"frobnicate\"");
}

TEST_F(CommandLineOptionsTest, KeysAtTheTopAndInTheSectionGiveValues) {
  EXPECT_EQ(read("policy = \"p\"\nverbose = true\nmax-connections = 7\nspin-us = 50\n"
                 "server = [\"a:1\", \"b:1\"]\n"),
            std::nullopt);
  EXPECT_EQ(options_.policy, "p");
  EXPECT_EQ(options_.connections, 7u);
  EXPECT_EQ(options_.spin, "50");
  EXPECT_EQ(options_.servers, (std::vector<std::string>{"a:1", "b:1"}));
  EXPECT_TRUE(options_.verbose);

  EXPECT_EQ(read("server = \"a:1,b:1\"\npolicy = \"common\"\nverbose = true\n"
                 "[pageserver]\npolicy = \"own\"\nverbose = false\nspin-us = \"auto\"\n"),
            std::nullopt);
  EXPECT_EQ(options_.servers, (std::vector<std::string>{"a:1", "b:1"}));
  EXPECT_EQ(options_.policy, "own");
  EXPECT_EQ(options_.spin, "auto");
  EXPECT_FALSE(options_.verbose);
}

TEST_F(CommandLineOptionsTest, OneFileServesAllPrograms) {
  EXPECT_EQ(read("control = \"/c\"\njson = true\nstore = \"s\"\nplacement = 3\n"
                 "[faulthandler]\nhttp = \"127.0.0.1:1\"\n[thaw]\njson = true\n"
                 "[thaw.prepare]\nhydrate-mib-s = 5\n[record]\nruns = 2\n"),
            std::nullopt);
}

TEST_F(CommandLineOptionsTest, FlagGoesBeforeTheFile) {
  EXPECT_EQ(read("server = \"a:1\"\npolicy = \"p\"\n", {"--server", "b:1", "--server", "c:1"}),
            std::nullopt);
  EXPECT_EQ(options_.servers, (std::vector<std::string>{"b:1", "c:1"}));
  EXPECT_EQ(options_.policy, "p");
}

TEST_F(CommandLineOptionsTest, SubcommandsHaveTablesThatAreCheckedEvenIfTheyAreNotAskedFor) {
  EXPECT_EQ(read("[push]\nlabel = [\"a=1\"]\n", {"push", "n"}), std::nullopt);
  EXPECT_EQ(options_.labels, std::vector<std::string>{"a=1"});
  EXPECT_EQ(read("[push]\nlabel = [\"a=1\"]\n[pageserver.push]\nlabel = \"b=2\"\n", {"push", "n"}),
            std::nullopt);
  EXPECT_EQ(options_.labels, std::vector<std::string>{"b=2"});
  EXPECT_EQ(refusal("[push]\nlable = \"a=1\"\n"),
            "line 2, column 1: unknown key \"lable\"; did you mean \"label\"?");
  EXPECT_EQ(refusal("[pageserver.psh]\n"),
            "line 1, column 13: unknown section \"psh\"; did you mean \"push\"?");
  EXPECT_EQ(refusal("[ws.plot]\ntrce = \"t\"\n"),
            "line 2, column 1: unknown key \"trce\"; did you mean \"trace\"?");
  EXPECT_EQ(read("[ws.plot]\ntrace = \"t\"\n"), std::nullopt);
}

TEST_F(CommandLineOptionsTest, WhatIsUnknownIsRefusedWithItsPlaceAndTheNearestName) {
  const std::pair<const char*, const char*> cases[] = {
      {"polcy = \"p\"\n", "line 1, column 1: unknown key \"polcy\"; did you mean \"policy\"?"},
      {"\n  max_connections = 5\n",
       "line 2, column 3: unknown key \"max_connections\"; did you mean \"max-connections\"?"},
      {"[pagserver]\n",
       "line 1, column 2: unknown section \"pagserver\"; did you mean \"pageserver\"?"},
      {"[pageserver]\npolcy = \"p\"\n",
       "line 2, column 1: unknown key \"polcy\"; did you mean \"policy\"?"},
      {"[faulthandler]\nserverr = \"a:1\"\n",
       "line 2, column 1: unknown key \"serverr\"; did you mean \"server\"?"},
      {"[thaw]\nstore = \"s\"\n", "line 2, column 1: unknown key \"store\""},
      {"[thaw.pul]\n", "line 1, column 7: unknown section \"pul\"; did you mean \"pull\"?"},
      {"pageserver = 1\n", "line 1, column 1: \"pageserver\" is a section: [pageserver]"},
      {"[[pageserver]]\npolicy = \"p\"\n",
       "line 1, column 3: \"pageserver\" is a section: [pageserver]"},
      {"frobnicate = 1\n", "line 1, column 1: unknown key \"frobnicate\""},
      {"\"esc\\u001b\" = 1\n", "line 1, column 1: unknown key \"esc\x1b\""},
      {"check = true\n", "line 1, column 1: unknown key \"check\""},
      {"config = \"x\"\n", "line 1, column 1: unknown key \"config\""},
  };
  for (const auto& [text, wrong] : cases) EXPECT_EQ(refusal(text), wrong) << text;
}

TEST_F(CommandLineOptionsTest, WrongValuesAreRefusedWithTheirPlaces) {
  const std::pair<const char*, const char*> cases[] = {
      {"max-connections = \"many\"\n", "line 1, column 19: max-connections takes a whole number"},
      {"max-connections = 1.5\n", "line 1, column 19: max-connections takes a whole number"},
      {"max-connections = -1\n", "line 1, column 19: max-connections must not be negative"},
      {"max-connections = 101\n",
       "line 1, column 19: max-connections: Value 101 not in range 1 to 100"},
      {"max-connections = [1]\n", "line 1, column 19: max-connections takes one value and no list"},
      {"policy = \"\"\n", "line 1, column 10: policy: --policy is empty"},
      {"policy = 5\n", "line 1, column 10: policy takes a string"},
      {"policy = true\n", "line 1, column 10: policy takes a string"},
      {"policy = 1979-05-27\n", "line 1, column 10: policy takes a string"},
      {"spin-us = true\n", "line 1, column 11: spin-us takes a string or a whole number"},
      {"verbose = \"yes\"\n", "line 1, column 11: verbose is true or false"},
      {"verbose = 1\n", "line 1, column 11: verbose is true or false"},
      {"server = []\n", "line 1, column 10: server is empty"},
      {"server = [[\"a:1\"]]\n", "line 1, column 11: server takes a string"},
      {"server = [\"a:1\", \"\"]\n", "line 1, column 18: server: --server is empty"},
      {"[push]\nlabel = 5\n", "line 2, column 9: label takes a string"},
  };
  for (const auto& [text, wrong] : cases) EXPECT_EQ(refusal(text), wrong) << text;
  for (const char* const text : {"policy = \"a\"\npolicy = \"b\"\n", "[thaw]\n[thaw]\n",
                                 "policy = {a = 1}\n", "x", "[^x]"}) {
    EXPECT_TRUE(read(text).has_value()) << text;
  }
}

TEST_F(CommandLineOptionsTest, FilesThatCannotBeReadAreErrors) {
  EXPECT_TRUE(parse({"--config", directory_.path("nothing")}).has_value());
  EXPECT_TRUE(parse({"--config", directory_.path(".")}).has_value());
  EXPECT_TRUE(parse({"--config", "/dev/zero"}).has_value()) << "a file without an end";
  EXPECT_EQ(parse({"--config", "/dev/null"}), std::nullopt);
}

TEST_F(CommandLineOptionsTest, WordsReachOptionsAsTheyAre) {
  for (const char* const word : {"[a,b]", "[x]", "[", "]", "{}", "%s%n", "a,b", "true", "push",
                                 "\"q\\uote\"", " x ", "\xff", "[k=v]"}) {
    EXPECT_EQ(parse({"push", word, word, "--label", word, word}), std::nullopt) << word;
    EXPECT_EQ(options_.name, word);
    EXPECT_EQ(options_.words, (std::vector<std::string>{word, word}));
    EXPECT_EQ(options_.labels, std::vector<std::string>{word});
  }
  EXPECT_EQ(parse({"push", "--", "-dash", "--", "--verbose", "[a]"}), std::nullopt);
  EXPECT_EQ(options_.name, "-dash");
  EXPECT_EQ(options_.words, (std::vector<std::string>{"--", "--verbose", "[a]"}));
  EXPECT_FALSE(options_.verbose);
}

TEST_F(CommandLineOptionsTest, ValueThatIsMissingIsNoValue) {
  EXPECT_EQ(parse({"--policy", ""}), "--policy: --policy is empty");
  EXPECT_EQ(parse({"--policy=", "--verbose"}), "--policy is empty");
  EXPECT_EQ(parse({"push", ""}), "name: name is empty");
  EXPECT_EQ(parse({"--empty", ""}), std::nullopt);
  EXPECT_EQ(options_.empty, "");
}

/// An environment variable as long as it lives.
class Variable {
 public:
  Variable(std::string name, const std::string& value) : name_(std::move(name)) {
    ::setenv(name_.c_str(), value.c_str(), 1);
  }
  ~Variable() { ::unsetenv(name_.c_str()); }

 private:
  const std::string name_;
};

TEST_F(CommandLineOptionsTest, VariableThatIsEmptyIsNoValue) {
  for (const std::string name :
       {"THAW_POLICY", "THAW_SERVER", "THAW_MAX_CONNECTIONS", "THAW_VERBOSE", "THAW_CONFIG"}) {
    const Variable variable(name, "");
    EXPECT_EQ(parse({}), name + " is empty: unset it or give it a value");
    EXPECT_EQ(parse({"push"}), name + " is empty: unset it or give it a value")
        << "rather than that a word is missing";
    EXPECT_EQ(read("policy = \"p\"\n"), name + " is empty: unset it or give it a value");
  }
  const Variable others("THAW_STORE", "");
  EXPECT_EQ(parse({}), std::nullopt) << "another program's";
}

TEST_F(CommandLineOptionsTest, FileThatOthersMayWriteIsRefused) {
  const std::string text = "insecure = true\nverbose = true\n";
  EXPECT_EQ(read(text), std::nullopt);
  for (const mode_t mode : {0666, 0646, 0664}) {
    ASSERT_EQ(::chmod(file_.c_str(), mode), 0);
    EXPECT_EQ(
        parse({"--config", file_}),
        fmt::format("other users may write {} (mode {:04o}): chmod go-w {}", file_, mode, file_));
  }
  ASSERT_EQ(::chmod(file_.c_str(), 0644), 0);
  EXPECT_EQ(parse({"--config", file_}), std::nullopt);
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(file_.c_str(), 65534, 65534), 0);
  EXPECT_EQ(parse({"--config", file_}).value_or("nothing").substr(file_.size()),
            " belongs to user 65534, who may write it: it must belong to root or to user 0");
}

TEST_F(CommandLineOptionsTest, JsonIsSeenInWordsThatAreWrong) {
  parse({"--frobnicate"});
  EXPECT_FALSE(json_);
  parse({"--frobnicate", "--json"});
  EXPECT_TRUE(json_);
  parse({"push", "--json=false", "--frobnicate"});
  EXPECT_FALSE(json_);
  parse({"push", "--frobnicate", "--", "--json"});
  EXPECT_FALSE(json_);
  read("polcy = 1\njson = true\n");
  EXPECT_TRUE(json_);
  read("polcy = 1\njson = true\n[pageserver]\njson = false\n");
  EXPECT_FALSE(json_);
}

using Words = std::vector<std::string>;
struct RealProgram {
  const char* name;
  Words words;  // with which it comes to no work
};
const RealProgram kRealPrograms[] = {
    {"thaw", {"--insecure", "--server", "127.0.0.1:1", "stats"}},
    {"thaw-pageserver", {"--store", "/proc/none", "--insecure", "--listen", "127.0.0.1:0"}},
    {"thaw-faulthandler", {"--control", "/proc/none/c"}}};

/// How it ends, with what it says.
Outcome end_of(const RealProgram& program, const std::string& before) {
  std::string command = before + " exec " + program_path(program.name);
  for (const std::string& word : program.words) command += " " + word;
  return run({"/bin/sh", "-c", command + " 2>&1"});
}

/// The names with which lines of a help begin behind `start`, of those lines that have `mark`.
std::set<std::string> names_in(const std::string& help, const std::string& start,
                               const std::string& mark) {
  std::set<std::string> names;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(start) || line.find(mark) == std::string::npos) continue;
    const std::string rest = line.substr(start.size());
    const std::size_t end = rest.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-");
    if (end != 0 && rest.front() != '-') names.insert(rest.substr(0, end));
  }
  return names;
}

TEST(KnownOptions, AreThoseOfTheProgramsHelp) {
  for (const KnownProgram& program : known_programs()) {
    const std::string help = run({program_path(std::string(program.name)), "--help"}).output;
    EXPECT_EQ(names_in(help, "  --", "(Env:THAW_"),
              std::set<std::string>(program.options.begin(), program.options.end()))
        << program.name << ": base/known_options.cc has another list";

    const std::size_t list = help.find("\nSubcommands:");
    const std::string rest = list == std::string::npos ? "" : help.substr(list);
    EXPECT_EQ(names_in(rest, "  ", " "),
              std::set<std::string>(program.commands.begin(), program.commands.end()))
        << program.name;
  }
}

TEST(KnownOptions, EveryProgramRefusesAMisspeltKeySectionAndVariable) {
  const ScratchDirectory directory;
  const std::string file = directory.path("t.toml");
  for (const RealProgram& program : kRealPrograms) {
    for (const auto& [text, wanted] :
         {std::pair("polcy = \"p\"\n", "unknown key \"polcy\"; did you mean \"policy\"?"),
          std::pair("[pagserver]\n", "unknown section \"pagserver\"; did you mean \"pageserver\"?"),
          std::pair("[thaw]\nsever = \"p\"\n",
                    "unknown key \"sever\"; did you mean \"server\"?")}) {
      write_file(file, as_bytes(std::string(text)));
      const Outcome outcome = end_of(program, "THAW_CONFIG=" + file);
      EXPECT_EQ(outcome.exit_code, 2) << program.name;
      EXPECT_NE(outcome.output.find(wanted), std::string::npos)
          << program.name << ": " << outcome.output;
    }
    const Outcome variable = end_of(program, "THAW_POLCY=x");
    EXPECT_EQ(variable.exit_code, 2) << program.name;
    EXPECT_NE(variable.output.find("THAW_POLCY; did you mean THAW_POLICY?"), std::string::npos)
        << variable.output;
  }
}

TEST(KnownOptions, ServersEndWithTheSameCodeForValuesThatMeanNothing) {
  for (const auto& [program, variable] :
       {std::pair(kRealPrograms[1], "THAW_LISTEN=127.0.0.1"),
        std::pair(kRealPrograms[2], "THAW_SERVER=127.0.0.1"),
        std::pair(kRealPrograms[2], "THAW_SERVER=127.0.0.1:99999"),
        std::pair(kRealPrograms[2], "THAW_PLACEMENT=there"),
        std::pair(kRealPrograms[2], "THAW_SPIN_US=many"),
        std::pair(kRealPrograms[2], "THAW_HTTP=127.0.0.1"),
        std::pair(kRealPrograms[2], "THAW_NAMESPACE='a b'")}) {
    RealProgram started = program;
    if (std::string(started.name) == "thaw-pageserver") started.words.resize(2);  // no --listen
    const Outcome outcome = end_of(started, variable);
    EXPECT_EQ(outcome.exit_code, 2) << variable << ": " << outcome.output;
    EXPECT_NE(outcome.output.find("invalid_argument"), std::string::npos) << outcome.output;
  }
}

TEST(KnownOptions, EveryProgramRefusesAVariableThatIsEmpty) {
  for (const auto& [program, variable] :
       {std::pair(kRealPrograms[0], "THAW_SERVER"), std::pair(kRealPrograms[0], "THAW_NAMESPACE"),
        std::pair(kRealPrograms[1], "THAW_TLS_CRL"), std::pair(kRealPrograms[1], "THAW_POLICY"),
        std::pair(kRealPrograms[2], "THAW_TLS_CRL"), std::pair(kRealPrograms[2], "THAW_CONFIG")}) {
    const Outcome outcome = end_of(program, std::string(variable) + "=");
    EXPECT_EQ(outcome.exit_code, 2) << program.name;
    EXPECT_NE(outcome.output.find(std::string(variable) + " is empty: unset it or give it a value"),
              std::string::npos)
        << program.name << ": " << outcome.output;
  }
}

TEST(FaultHandler, UpgradeTakesNoFlagThatItWouldNotUse) {
  const Words words{"--control", "/proc/none/c", "--upgrade"};
  const Outcome alone = end_of({"thaw-faulthandler", words}, "");
  EXPECT_EQ(alone.exit_code, 1) << "none runs there: " << alone.output;
  for (const std::string flag : {"--around=8", "--no-sandbox", "--server=unix:/s"}) {
    Words more = words;
    more.push_back(flag);
    const Outcome outcome = end_of({"thaw-faulthandler", more}, "");
    EXPECT_EQ(outcome.exit_code, 2) << flag;
    EXPECT_NE(outcome.output.find("an upgrade keeps the flags of the running program"),
              std::string::npos)
        << outcome.output;
  }
}

TEST(KnownOptions, VariablesOfOthersAreNoObstacle) {
  for (const RealProgram& program : kRealPrograms) {
    const Outcome known = end_of(program,
                                 "THAW_BIN=x THAW_TEST_X=x THAW_QEMU_MEMORY=x THAW_STATE=x "
                                 "THAW_LISTEN=127.0.0.1:0 THAW_SERVERS=");
    EXPECT_NE(known.exit_code, 2) << known.output;
    EXPECT_EQ(known.output.find("means nothing"), std::string::npos) << known.output;
    const Outcome others = end_of(program, "THAW_PAGES_SERVICE_HOST=10.0.0.1");
    EXPECT_NE(others.exit_code, 2) << others.output;
    EXPECT_NE(others.output.find("THAW_PAGES_SERVICE_HOST means nothing to Thaw"),
              std::string::npos)
        << others.output;
  }
}

}  // namespace
}  // namespace thaw::test
