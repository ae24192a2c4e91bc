// `thaw push` and `thaw pull` against the real page server: connections that are lost or fall
// silent, and what images come from and go to.

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mapping.h"
#include "tests/support/lying_relay.h"
#include "tests/support/programs.h"
#include "tests/support/relay.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

constexpr std::size_t kPages = 4096;
constexpr std::size_t kImageBytes = kPages * kPageBytes;

class TransferTest : public testing::Test {
 protected:
  TransferTest() : server_(path("store")) {
    auto generator = seeded_generator();
    image_ = random_bytes(generator, kImageBytes);
    std::fill_n(image_.begin() + 5000 * 1000, 3'000'000, std::byte{0});
    write_file(path("image"), image_);
    std::filesystem::create_directory(path("out"));
  }

  std::string path(const std::string& name) const { return directory_.path(name); }
  Words thaw(const std::string& server, Words arguments) const {
    arguments.insert(arguments.begin(),
                     {program_path("thaw"), "--json", "--insecure", "--server", server});
    return arguments;
  }
  void push_image(const std::string& name) {
    ASSERT_EQ(server_.thaw({"push", name, "--memory", path("image")}).exit_code, 0);
  }
  static std::string error_of(const Outcome& outcome) {
    const Json json = Json::parse(outcome.output, nullptr, false);
    if (!json.is_object() || !json.contains("error")) return outcome.output;
    return json["error"]["code"];
  }
  static Words warnings_of(const Outcome& outcome) {
    Words codes;
    const Json report = Json::parse(outcome.output);
    for (const Json& warning : report["warnings"]) codes.push_back(warning["code"]);
    return codes;
  }
  std::size_t files_in_out() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(path("out")), {}));
  }

  ScratchDirectory directory_;
  PageServer server_;
  Bytes image_;
};

/// Cuts the first connection of which so many bytes have passed one way, and calls `before` first.
Relay::Tamper cut_once(Relay::Way way, std::size_t after, std::function<void()> before = [] {}) {
  const auto cut = std::make_shared<std::atomic<bool>>(false);
  return [=](Relay::Way passing, std::size_t passed, MutableByteSpan) {
    if (passing != way || passed < after || cut->exchange(true)) return true;
    before();
    return false;
  };
}

TEST_F(TransferTest, PushOfKnownPagesGoesOnWhenItsConnectionIsLost) {
  push_image("known");
  Relay relay(server_.address(), cut_once(Relay::Way::kToServer, 50'000));
  const Outcome pushed = run(thaw(relay.address(), {"push", "again", "--memory", path("image")}));
  ASSERT_EQ(pushed.exit_code, 0) << pushed.output;
  const Json report = Json::parse(pushed.output);
  EXPECT_EQ(report["reconnects"], 1);
  EXPECT_EQ(report["uploaded_bytes"], 0);
  EXPECT_EQ(report["warnings"], Json::array());
}

TEST_F(TransferTest, PullGoesOnWhereItsConnectionWasLost) {
  push_image("a");
  Relay relay(server_.address(), cut_once(Relay::Way::kToClient, kImageBytes / 2));
  const Outcome pulled = run(thaw(relay.address(), {"pull", "a", "--memory", path("out/m")}));
  ASSERT_EQ(pulled.exit_code, 0) << pulled.output;
  const Json report = Json::parse(pulled.output);
  EXPECT_EQ(report["reconnects"], 1);
  // What was asked for when the connection was lost comes again, and nothing else.
  EXPECT_LT(report["received_bytes"], kImageBytes);
  EXPECT_TRUE(read_file(path("out/m")) == image_);
}

TEST_F(TransferTest, PullThatIsCutEndsWhenItsSnapshotIsAnotherOne) {
  push_image("deleted");
  push_image("replaced");
  const std::string other = path("other");
  write_file(other, make_image(1, kPages));
  const auto remove = [&](const std::string& name) {
    EXPECT_EQ(server_.thaw({"rm", name, "--when-unused"}).exit_code, 0);
  };
  Relay first(server_.address(),
              cut_once(Relay::Way::kToClient, kImageBytes / 2, [&] { remove("deleted"); }));
  EXPECT_EQ(error_of(run(thaw(first.address(), {"pull", "deleted", "--memory", path("out/m")}))),
            "not_found");
  Relay second(server_.address(), cut_once(Relay::Way::kToClient, kImageBytes / 2, [&] {
                 remove("replaced");
                 EXPECT_EQ(server_.thaw({"push", "replaced", "--memory", other}).exit_code, 0);
               }));
  EXPECT_EQ(error_of(run(thaw(second.address(), {"pull", "replaced", "--memory", path("out/m")}))),
            "not_found");
  EXPECT_EQ(files_in_out(), 0u);
}

/// Lets so many replies of a connection pass, and then swallows those of this one alone.
LyingRelay::Tell fall_silent_once(int replies) {
  const auto left = std::make_shared<std::atomic<int>>(replies);
  return [left](const LyingRelay::Peer&, const Envelope& reply, const Bytes& body) {
    if (left->fetch_sub(1) != 0) return LyingRelay::truth(reply, body);
    return LyingRelay::Lie{.bytes = {}, .then = LyingRelay::Lie::Then::kStall};
  };
}

TEST_F(TransferTest, SilentConnectionsAreGivenUp) {
  push_image("a");
  const LyingRelay to_push(server_.address(), fall_silent_once(3));
  const LyingRelay to_pull(server_.address(), fall_silent_once(6));
  Program push(thaw(to_push.address(), {"push", "b", "--memory", path("image")}));
  Program pull(thaw(to_pull.address(), {"pull", "a", "--memory", path("out/m")}));
  for (Program* const program : {&push, &pull}) {
    const std::string output = program->rest_of_output();
    EXPECT_EQ(program->wait().value(), 0) << output;
    EXPECT_EQ(Json::parse(output)["reconnects"], 1);
  }
  EXPECT_TRUE(read_file(path("out/m")) == image_);
}

TEST_F(TransferTest, SignalEndsAPullThatWaitsAndLeavesNothing) {
  push_image("a");
  std::atomic<bool> silent = false;
  const LyingRelay relay(
      server_.address(),
      [&, tell = fall_silent_once(6)](const auto& peer, const auto& reply, const auto& body) {
        auto lie = tell(peer, reply, body);
        if (lie.then == LyingRelay::Lie::Then::kStall) {
          silent = true;
          silent.notify_all();
        }
        return lie;
      });
  write_file(path("out/m"), as_bytes("old"));
  Program pull(
      thaw(relay.address(), {"pull", "a", "--memory", path("out/m"), "--state", path("out/s")}));
  silent.wait(false);
  pull.signal(SIGTERM);
  EXPECT_EQ(pull.wait().value(), 128 + SIGTERM);
  EXPECT_EQ(files_in_out(), 1u);
  EXPECT_EQ(as_text(read_file(path("out/m"))), "old");
}

TEST_F(TransferTest, PullIntoStdoutIsDenseAndAlone) {
  push_image("a");
  for (const char* const name : {"-", "/dev/stdout"}) {
    const Outcome pulled = server_.thaw({"pull", "a", "--memory", name});
    EXPECT_EQ(pulled.exit_code, 0);
    EXPECT_TRUE(pulled.output == as_text(image_)) << name;
  }
}

TEST_F(TransferTest, TargetsAreRefusedBeforeAnythingIsFetched) {
  const auto refusal = [&](const std::string& memory, const std::string& state) {
    return error_of(
        run(thaw("127.0.0.1:1", {"pull", "a", "--memory", path(memory), "--state", path(state)})));
  };
  EXPECT_EQ(refusal("out", "out/s"), "already_exists");
  EXPECT_EQ(refusal("out/", "out/s"), "already_exists");
  EXPECT_EQ(refusal("no/file", "out/s"), "not_found");
  EXPECT_EQ(refusal("out/m", "out/m"), "invalid_argument");
  std::filesystem::create_symlink("m", path("out/link"));
  EXPECT_EQ(refusal("out/link", "out/m"), "invalid_argument");
  EXPECT_EQ(refusal("out/m", "out/s"), "unavailable");
  const std::vector<std::string> twice{"pull", "a", "--memory", "-", "--state", "/dev/stdout"};
  EXPECT_EQ(error_of(run(thaw("127.0.0.1:1", twice))), "invalid_argument");
  EXPECT_EQ(files_in_out(), 1u) << "the link";
}

TEST_F(TransferTest, PullEndsAtTheLimitOfFileSizes) {
  push_image("a");
  const Outcome limited =
      run({"sh", "-c", "ulimit -f 64; exec \"$@\"", "sh", program_path("thaw"), "--json",
           "--insecure", "--server", server_.address(), "pull", "a", "--memory", path("out/m")});
  EXPECT_EQ(limited.exit_code, 1) << limited.output;
  EXPECT_EQ(files_in_out(), 0u);
}

TEST_F(TransferTest, PushThatGetsNoThreadOrMemoryEndsWithAnError) {
  unsigned refused = 0;
  for (const char* const kib : {"60000", "90000", "130000"}) {
    const Outcome limited = run({"sh", "-c", "ulimit -v $1; shift; exec \"$@\"", "sh", kib,
                                 program_path("thaw"), "--json", "--insecure", "--server",
                                 server_.address(), "push", kib, "--memory", path("image")});
    EXPECT_LT(limited.exit_code, 128) << kib;
    if (limited.exit_code == 1) {
      ++refused;
      EXPECT_TRUE(Json::parse(limited.output, nullptr, false).contains("error")) << limited.output;
    }
  }
  EXPECT_GT(refused, 0u);
}

TEST_F(TransferTest, PushReadsPipesAndMemoryFiles) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const auto push_through_pipe = [&](Words more) {
    const std::jthread writer([&] {
      std::signal(SIGPIPE, SIG_IGN);
      std::ofstream(path("pipe"), std::ios::binary) << as_text(image_);
    });
    more.insert(more.begin(), {"push", "piped", "--memory", path("pipe")});
    return server_.thaw(more);
  };
  EXPECT_EQ(push_through_pipe({}).exit_code, 0);
  EXPECT_EQ(error_of(push_through_pipe({"--parent", "piped", "--diff"})), "invalid_argument");

  const UniqueFd writable = UniqueFd(::memfd_create("image", MFD_CLOEXEC));
  ASSERT_TRUE(succeeded(write_at(writable, image_, 0)));
  const std::string name = fmt::format("/proc/{}/fd/{}", ::getpid(), writable.get());
  const Outcome pushed = server_.thaw({"push", "memfd", "--memory", name});
  ASSERT_EQ(pushed.exit_code, 0) << pushed.output;
  const Json hash = Json::parse(pushed.output)["content_hash"];
  EXPECT_EQ(Json::parse(server_.thaw({"show", "piped"}).output)["content_hash"], hash);
  EXPECT_EQ(error_of(server_.thaw({"push", "zero", "--memory", "/dev/zero"})), "invalid_argument");

  const std::string pinned = "piped@sha256:" + hash.get<std::string>();
  EXPECT_EQ(server_.thaw({"pull", pinned, "--memory", path("pulled")}).exit_code, 0);
  EXPECT_TRUE(read_file(path("pulled")) == image_);
  EXPECT_EQ(error_of(server_.thaw({"show", "piped@sha256:" + std::string(64, '0')})),
            "hash_mismatch");
}

TEST_F(TransferTest, PushWarnsOfMemoryThatChangesMeanwhile) {
  const UniqueFd file(::open(path("image").c_str(), O_RDWR | O_CLOEXEC));
  Relay on_disk(server_.address(), [&](Relay::Way, std::size_t before, MutableByteSpan) {
    return before == 0 || succeeded(write_at(file, as_bytes("changed"), 0));
  });
  const Outcome changed = run(thaw(on_disk.address(), {"push", "a", "--memory", path("image")}));
  EXPECT_EQ(changed.exit_code, 0);
  EXPECT_EQ(warnings_of(changed), Words{"memory_changed"});

  // What is written into mapped memory changes no time stamp.
  const UniqueFd memory(::memfd_create("image", MFD_CLOEXEC));
  ASSERT_TRUE(succeeded(write_at(memory, image_, 0)));
  const Mapping mapped = Mapping::shared(memory, {kImageBytes}).value();
  const std::string name = fmt::format("/proc/{}/fd/{}", ::getpid(), memory.get());
  EXPECT_EQ(warnings_of(server_.thaw({"push", "b", "--memory", name})), Words{});
  Relay in_memory(server_.address(), [&](Relay::Way way, std::size_t before, MutableByteSpan) {
    if (way == Relay::Way::kToServer && before > 10'000) mapped.bytes()[0] = ~image_[0];
    return true;
  });
  EXPECT_EQ(warnings_of(run(thaw(in_memory.address(), {"push", "c", "--memory", name}))),
            Words{"memory_changed"});
}

TEST_F(TransferTest, PushWarnsOfDiffsThatKeepOrChangeNothing) {
  push_image("a");
  const auto push_diff = [&](const std::string& name, const std::string& file) {
    return warnings_of(
        server_.thaw({"push", name, "--parent", "a", "--diff", "--memory", path(file)}));
  };
  EXPECT_EQ(push_diff("b", "image"), Words{"diff_keeps_nothing"});
  write_file(path("diff"), {});
  std::filesystem::resize_file(path("diff"), kImageBytes);
  EXPECT_EQ(push_diff("c", "diff"), Words{"diff_changes_nothing"});
  const UniqueFd diff(::open(path("diff").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(succeeded(write_at(diff, as_bytes("changed"), 1 << 20)));
  EXPECT_EQ(push_diff("d", "diff"), Words{});
}

}  // namespace
}  // namespace thaw::test
