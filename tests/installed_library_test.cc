// What `cmake --install` installs, moved to another place, and the example built against it.

#include <cstdint>
#include <filesystem>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

using Names = std::set<std::string>;

const std::string kExample = THAW_SOURCE_DIR "/vmm-client/example";

/// All that the expression matches in the text.
Names matches(const std::string& text, const char* expression) {
  const std::regex wanted(expression);
  Names found;
  for (std::sregex_iterator at(text.begin(), text.end(), wanted); at != std::sregex_iterator();
       ++at) {
    found.insert(at->str());
  }
  return found;
}

void expect_success(const std::vector<std::string>& command) {
  const Outcome outcome = run(command);
  EXPECT_EQ(outcome.exit_code, 0) << fmt::format("{}\n", fmt::join(command, " ")) << outcome.output;
}

/// A prefix that was moved after the installation, as a package's content is.
class Installation {
 public:
  explicit Installation(const ScratchDirectory& in) : prefix_(in.path("moved")) {
    expect_success({THAW_CMAKE, "--install", THAW_BINARY_DIR, "--prefix", in.path("installed")});
    std::filesystem::rename(in.path("installed"), prefix_);
  }

  const std::string& prefix() const { return prefix_; }
  std::string library(const std::string& name) const {
    return prefix_ + "/" THAW_LIBRARY_DIR "/" + name;
  }

 private:
  std::string prefix_;
};

TEST(InstalledLibrary, ExportsTheDocumentedFunctionsAlone) {
  const ScratchDirectory directory;
  const Installation installed(directory);
  const Bytes header = read_file(installed.prefix() + "/include/thaw.h");
  const Outcome symbols =
      run({"nm", "-D", "--defined-only", "--format=just-symbols", installed.library("libthaw.so")});

  Names expected{"THAW_1"};
  for (const std::string& name : matches(std::string(as_text(header)), R"(\bthaw_\w+(?=\())")) {
    expected.insert(name + "@@THAW_1");
  }

  EXPECT_EQ(matches(symbols.output, R"(\S+)"), expected);
}

TEST(InstalledLibrary, HasTheNamesThatProgramsLookFor) {
  const ScratchDirectory directory;
  const Installation installed(directory);

  const Outcome dynamic = run({"readelf", "-d", installed.library("libthaw.so")});

  EXPECT_EQ(matches(dynamic.output, R"(soname: \[.*\])"), Names{"soname: [libthaw.so.1]"});
  EXPECT_EQ(matches(dynamic.output, R"(R(UN)?PATH)"), Names{});
  EXPECT_TRUE(std::filesystem::exists(installed.library("libthaw.so.1")));
  EXPECT_TRUE(std::filesystem::exists(installed.library("thaw-qemu.so")));
}

/// The example as a VMM of a snapshot.
class ExampleVmmTest : public RestoreTest {
 protected:
  std::string expected_output() const {
    std::uint64_t sum = 0xcbf29ce484222325;
    for (const std::byte byte : image_) {
      sum = (sum ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3;
    }
    return fmt::format("checksum {:016x}\n", sum);
  }

  void expect_right_restores(const std::string& program) {
    for (const std::string mode : {"private", "shared"}) {
      prepare(mode == "shared" ? std::vector<std::string>{"--shared"} : std::vector<std::string>{});
      const Outcome outcome = run({"env", "LD_LIBRARY_PATH=" + installed_.library(""), program,
                                   path("vm"), std::to_string(image_.size()), mode});
      EXPECT_EQ(outcome.exit_code, 0);
      EXPECT_EQ(outcome.output, expected_output()) << mode;
    }
  }

  const Installation installed_{directory_};
};

INSTANTIATE_TEST_SUITE_P(Loops, ExampleVmmTest, testing::Values(LoopKind::kUring), loop_name);

TEST_P(ExampleVmmTest, BuiltWithPkgConfigRestores) {
  const std::string program = path("vmm");

  const std::string flags = fmt::format("$(PKG_CONFIG_PATH={} {} --cflags --libs thaw)",
                                        installed_.library("pkgconfig"), THAW_PKG_CONFIG);

  expect_success({"sh", "-c",
                  fmt::format("{} -Wall -Wextra -Werror {}/vmm.c -o {} {}", THAW_C_COMPILER,
                              kExample, program, flags)});

  expect_right_restores(program);
}

TEST_P(ExampleVmmTest, BuiltWithFindPackageRestores) {
  const std::string build = path("build");

  expect_success({THAW_CMAKE, "-S", kExample, "-B", build, "-G", "Ninja",
                  std::string("-DCMAKE_C_COMPILER=") + THAW_C_COMPILER,
                  "-DCMAKE_PREFIX_PATH=" + installed_.prefix()});
  expect_success({THAW_CMAKE, "--build", build});

  expect_right_restores(build + "/vmm");
}

TEST_P(ExampleVmmTest, FailureIsNamed) {
  const std::string program = path("vmm");
  expect_success({"sh", "-c",
                  fmt::format("{} {}/vmm.c -o {} -I{}/include {}", THAW_C_COMPILER, kExample,
                              program, installed_.prefix(), installed_.library("libthaw.so"))});

  const Outcome outcome = run({"sh", "-c",
                               fmt::format("LD_LIBRARY_PATH={} {} {} 4096 private 2>&1",
                                           installed_.library(""), program, path("nobody"))});

  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_TRUE(outcome.output.starts_with("not_found: ")) << outcome.output;
}

}  // namespace
}  // namespace thaw::test
