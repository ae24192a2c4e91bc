// Restores of real VMs through the real programs: a VM that is captured and goes on in another
// process prints what one prints that was never interrupted.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/kvm.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"
#include "vmm-client/microvm/capture.h"
#include "vmm-client/microvm/microvm_shell.h"
#include "vmm-client/restore_pool.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

constexpr std::uint64_t kRounds = 24;
constexpr std::uint64_t kCapturedAfter = 7;
/// Where the host is busy the first capture comes a round or two after it was asked for.
constexpr std::uint64_t kCapturedLater = kCapturedAfter + 6;

class MicroVmRestoreTest : public testing::TestWithParam<unsigned> {
 protected:
  void SetUp() override {
    if (const auto missing = why_no_kvm()) GTEST_SKIP() << *missing;
  }

  std::string path(const std::string& name) const { return directory_.path(name); }

  /// Its stdout, with what it reports in messages().
  Outcome microvm(const Words& arguments, const Words& before = {}) {
    std::filesystem::remove(path("messages"));
    Words command = before;
    command.push_back(program_path("thaw-microvm"));
    command.insert(command.end(), arguments.begin(), arguments.end());
    Program program(command, {.cpus = {}, .messages = path("messages")});
    std::string output = program.rest_of_output();
    return {program.wait().value_or(-1), std::move(output)};
  }
  std::string messages() const { return std::string(as_text(read_file(path("messages")))); }
  /// What was reported under this name.
  Json reported(const std::string& name) const {
    std::ifstream lines(path("messages"));
    for (std::string line; std::getline(lines, line);) {
      const Json report = Json::parse(line, nullptr, false);
      if (report.is_object() && report.contains(name)) return report[name];
    }
    return {};
  }

  static Words run_arguments(const Words& more = {}) {
    Words arguments{"run",         "--json", "--memory", "16M",
                    "--structure", "8M",     "--seed",   "3",
                    "--steps",     "4000",   "--vcpus",  std::to_string(GetParam())};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  Words capture_arguments(const std::string& name, std::uint64_t after) const {
    return {"--capture-memory",    path(name + ".memory"), "--capture-state",
            path(name + ".state"), "--capture-after",      std::to_string(after)};
  }
  /// Runs a VM to its capture; what it printed.
  std::string run_to_capture(const std::string& name) {
    const Outcome outcome = microvm(run_arguments(capture_arguments(name, kCapturedAfter)));
    EXPECT_EQ(outcome.exit_code, 0) << messages();
    return outcome.output;
  }
  Outcome restore(const std::string& name, Words more, const Words& before = {}) {
    more.insert(more.begin(), {"restore", "--json", "--state", path(name + ".state")});
    return microvm(more, before);
  }
  Words from_file(const std::string& name, const Words& more = {}) const {
    Words arguments{"--memory", path(name + ".memory")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  Words to_the_end() const { return {"--rounds", std::to_string(kRounds)}; }

  void expect_uninterrupted(const std::string& serial) {
    const Outcome whole = microvm(run_arguments(to_the_end()));
    ASSERT_EQ(whole.exit_code, 0) << messages();
    // A VM prints nothing beyond its last round, but up to a capture vCPUs may be ahead.
    const auto expected = lines_by_vcpu(whole.output, kRounds + 1);
    ASSERT_EQ(expected.size(), GetParam());
    for (const auto& [vcpu, lines] : expected) EXPECT_EQ(lines.size(), kRounds) << vcpu;
    EXPECT_EQ(lines_by_vcpu(serial, kRounds), expected);
  }

  /// Every line is there, but not all are those of an uninterrupted VM.
  void expect_other_lines(const std::string& serial) {
    const Outcome whole = microvm(run_arguments(to_the_end()));
    ASSERT_EQ(whole.exit_code, 0) << messages();
    const auto lines = lines_by_vcpu(serial, kRounds);
    ASSERT_EQ(lines.size(), GetParam());
    for (const auto& [vcpu, of_vcpu] : lines) EXPECT_EQ(of_vcpu.size(), kRounds) << vcpu;
    EXPECT_NE(lines, lines_by_vcpu(whole.output, kRounds));
  }

  void change_state(const std::string& name, const std::function<void(MicroVmState&)>& change) {
    const std::string file = path(name + ".state");
    MicroVmState state = read_state_file(file).value();
    change(state);
    write_file(file, encode_state(state));
  }

  /// The same of a VM whose vCPUs lose something between capture and restore.
  void expect_other_lines_with(const std::function<void(VcpuState&)>& loss) {
    const std::string serial = run_to_capture("vm");
    change_state("vm", [&](MicroVmState& state) { std::ranges::for_each(state.vcpus, loss); });

    const Outcome restored = restore("vm", from_file("vm", to_the_end()));

    EXPECT_EQ(restored.exit_code, 0) << messages();
    expect_other_lines(serial + restored.output);
  }

  ScratchDirectory directory_;
};

INSTANTIATE_TEST_SUITE_P(Vcpus, MicroVmRestoreTest, testing::Values(1u, 3u));

TEST_P(MicroVmRestoreTest, GoesOnFromAFile) {
  std::string serial = run_to_capture("vm");
  const Json captured = reported("captured");
  EXPECT_EQ(
      captured["data_bytes"].get<std::uint64_t>() + captured["hole_bytes"].get<std::uint64_t>(),
      16u << 20);
  EXPECT_GE(captured["data_bytes"].get<std::uint64_t>(), 8u << 20);
  const Bytes image = read_file(path("vm.memory"));

  const Outcome restored = restore("vm", from_file("vm", to_the_end()));

  EXPECT_EQ(restored.exit_code, 0) << messages();
  expect_uninterrupted(serial + restored.output);
  EXPECT_EQ(read_file(path("vm.memory")), image);
}

TEST_P(MicroVmRestoreTest, GoesOnInTheSameProcess) {
  Words arguments = run_arguments(capture_arguments("vm", kCapturedAfter));
  for (const std::string& word : to_the_end()) arguments.push_back(word);
  const Outcome outcome = microvm(arguments);
  EXPECT_EQ(outcome.exit_code, 0) << messages();
  expect_uninterrupted(outcome.output);
}

TEST_P(MicroVmRestoreTest, ReportsItsPhases) {
  run_to_capture("vm");
  EXPECT_EQ(restore("vm", from_file("vm", to_the_end())).exit_code, 0);
  const Json phases = reported("restored");
  for (const char* const phase :
       {"memory_us", "vm_us", "vcpus_us", "state_us", "first_output_us"}) {
    EXPECT_GT(phases[phase].get<int>(), 0) << phase;
  }
}

TEST_P(MicroVmRestoreTest, LostVectorRegistersWouldShow) {
  constexpr std::size_t kXmm7 = 160 + 7 * 16;  // in the FXSAVE layout
  expect_other_lines_with(
      [](VcpuState& vcpu) { std::fill_n(vcpu.xsave.begin() + kXmm7, 16, std::byte{0}); });
}

TEST_P(MicroVmRestoreTest, LostRoundingModeWouldShow) {
  constexpr std::size_t kMxcsr = 24;
  expect_other_lines_with(
      [](VcpuState& vcpu) { store_le(vcpu.xsave.data() + kMxcsr, std::uint32_t{0x1f80}); });
}

TEST_P(MicroVmRestoreTest, LostMemoryWouldShow) {
  const std::string serial = run_to_capture("vm");
  Bytes image = read_file(path("vm.memory"));
  // The value of every 8th node.
  constexpr std::size_t kStructure = 2u << 20;
  for (std::size_t at = kStructure; at < kStructure + (8u << 20); at += 512) {
    image[at + 8] ^= std::byte{1};
  }
  write_file(path("vm.memory"), image);
  EXPECT_EQ(restore("vm", from_file("vm", to_the_end())).exit_code, 1);
  EXPECT_NE(messages().find("checksum_mismatch"), std::string::npos) << messages();
  change_state("vm", [](MicroVmState& state) { state.content.reset(); });

  const Outcome restored = restore("vm", from_file("vm", to_the_end()));

  EXPECT_EQ(restored.exit_code, 0) << messages();
  expect_other_lines(serial + restored.output);
}

TEST_P(MicroVmRestoreTest, MemoryOfAnotherCaptureIsRefused) {
  run_to_capture("vm");
  const Words later = capture_arguments("later", kCapturedLater);
  ASSERT_EQ(microvm(run_arguments(later)).exit_code, 0) << messages();
  for (const bool whole : {true, false}) {
    // What a capture of changes has: its witnesses.
    if (!whole) change_state("vm", [](MicroVmState& state) { state.content.reset(); });
    const Outcome restored = restore("vm", from_file("later", to_the_end()));
    EXPECT_EQ(restored.exit_code, 1);
    EXPECT_EQ(restored.output, "");
    EXPECT_NE(messages().find("checksum_mismatch"), std::string::npos) << messages();
  }
}

TEST_P(MicroVmRestoreTest, CaptureThatFailsLeavesWhatWasThere) {
  run_to_capture("vm");
  const Bytes image = read_file(path("vm.memory"));
  std::filesystem::create_directory(path("occupied"));
  for (const std::string& state : {path("occupied"), path("none/state")}) {
    const Outcome outcome =
        microvm(run_arguments({"--capture-memory", path("vm.memory"), "--capture-state", state,
                               "--capture-after", std::to_string(kCapturedAfter + 1)}));
    EXPECT_EQ(outcome.exit_code, 1) << state;
    EXPECT_EQ(read_file(path("vm.memory")), image) << state;
  }
  EXPECT_EQ(restore("vm", from_file("vm", to_the_end())).exit_code, 0) << messages();
}

TEST_P(MicroVmRestoreTest, DamagedFilesAreRefusedByName) {
  run_to_capture("vm");
  const Bytes state = read_file(path("vm.state"));
  const auto refusal = [&](const Bytes& damaged) {
    write_file(path("vm.state"), damaged);
    const Outcome outcome = restore("vm", from_file("vm", to_the_end()));
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_EQ(outcome.output, "");
    return messages();
  };
  const auto with_byte = [&](std::size_t at, int value) {
    Bytes damaged = state;
    damaged[at] = static_cast<std::byte>(value);
    return damaged;
  };
  EXPECT_NE(refusal(with_byte(0, 'X')).find("bad_magic"), std::string::npos);
  EXPECT_NE(refusal(with_byte(4, 9)).find("bad_version"), std::string::npos);
  EXPECT_NE(refusal(with_byte(6, 9)).find("malformed"), std::string::npos);
  EXPECT_NE(refusal(with_byte(11, 9)).find("too_large"), std::string::npos);
  Bytes flipped = state;
  flipped[16] ^= std::byte{1};
  EXPECT_NE(refusal(flipped).find("checksum_mismatch"), std::string::npos);
  EXPECT_NE(refusal({state.begin(), state.end() - 1}).find("truncated"), std::string::npos);
  EXPECT_NE(refusal({}).find("truncated"), std::string::npos);

  write_file(path("vm.state"), state);
  std::filesystem::resize_file(path("vm.memory"), 8u << 20);
  EXPECT_EQ(restore("vm", from_file("vm")).exit_code, 1);
  EXPECT_NE(messages().find("malformed"), std::string::npos);
  std::filesystem::remove(path("vm.state"));
  EXPECT_EQ(restore("vm", from_file("vm")).exit_code, 1);
  EXPECT_NE(messages().find("not_found"), std::string::npos);
}

TEST_P(MicroVmRestoreTest, AnotherVendorIsAWarning) {
  std::string serial = run_to_capture("vm");
  change_state("vm", [](MicroVmState& state) {
    std::ranges::copy(std::string_view("AnotherVendo"), state.cpu_vendor.begin());
  });

  const Outcome restored = restore("vm", from_file("vm", to_the_end()));

  EXPECT_EQ(restored.exit_code, 0) << messages();
  EXPECT_NE(messages().find("AnotherVendo"), std::string::npos);
  expect_uninterrupted(serial + restored.output);
}

TEST_P(MicroVmRestoreTest, CounterGoesOnOrIsAWarning) {
  const auto ticks = [](const std::string& file) {
    const MicroVmState state = read_state_file(file).value();
    return *std::ranges::find(state.vcpus[0].msrs, 0x10u, &kvm_msr_entry::index);
  };
  run_to_capture("vm");
  change_state("vm", [](MicroVmState& state) {
    for (VcpuState& vcpu : state.vcpus) {
      for (kvm_msr_entry& msr : vcpu.msrs) {
        if (msr.index == 0x10) msr.data += std::uint64_t{state.tsc_khz} * 3'600'000;  // an hour
      }
    }
  });

  const Outcome second = restore("vm", from_file("vm", capture_arguments("second", kRounds)));

  ASSERT_EQ(second.exit_code, 0) << messages();
  const bool goes_on = ticks(path("second.state")).data >= ticks(path("vm.state")).data;
  const bool warned = messages().find("the guest's goes back") != std::string::npos;
  EXPECT_NE(goes_on, warned) << messages();
}

TEST_P(MicroVmRestoreTest, GuestThatEndsByItselfIsAFailure) {
  const Outcome outcome = microvm({"run", "--steps", "0"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(messages().find("the guest ended with code 1"), std::string::npos) << messages();
}

TEST_P(MicroVmRestoreTest, WrongArgumentsAreRefused) {
  EXPECT_EQ(microvm({"run", "--vcpus", "9"}).exit_code, 2);
  EXPECT_EQ(microvm({"run", "--capture-memory", path("m")}).exit_code, 2);
  EXPECT_EQ(microvm({"restore", "--state", path("s")}).exit_code, 2);
  EXPECT_EQ(microvm({"run", "--memory", "5M"}).exit_code, 1);
  EXPECT_EQ(microvm({"run", "--memory", "16M", "--structure", "15M"}).exit_code, 1);
}

/// With a page server that has the captured VM as a snapshot, and a fault handler.
class MicroVmServedTest : public MicroVmRestoreTest {
 protected:
  void SetUp() override {
    MicroVmRestoreTest::SetUp();
    if (IsSkipped()) return;
    captured_ = run_to_capture("vm");
    server_.emplace(path("store"));
    ASSERT_EQ(
        server_->thaw({"push", "vm", "--memory", path("vm.memory"), "--state", path("vm.state")})
            .exit_code,
        0);
    handler_.emplace(Words{program_path("thaw-faulthandler"), "--control", path("control"),
                           "--insecure", "--server", server_->address()});
    ASSERT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
    prepare();
  }
  Outcome control(Words arguments) {
    arguments.insert(arguments.begin(),
                     {program_path("thaw"), "--json", "--control", path("control")});
    return run(arguments);
  }
  /// A session on path("socket"), and its state file as "served.state".
  void prepare(const Words& more = {}) {
    Words arguments{"prepare",      "vm",          "--socket",
                    path("socket"), "--state-out", path("served.state")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = control(arguments);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  }
  Words from_socket(const Words& more) const {
    Words arguments{"--socket", path("socket")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  /// Restores the VM from `source`, captures what it changes, and restores it from a snapshot that
  /// has this and else what the first one has.
  void goes_on_from_its_changes(Words source) {
    const Words capture = capture_arguments("second", kCapturedLater);
    source.insert(source.end(), capture.begin(), capture.end());
    source.emplace_back("--capture-changes");
    const Outcome second = restore("served", source);
    ASSERT_EQ(second.exit_code, 0) << messages();
    const Json captured = reported("captured");
    EXPECT_GT(captured["data_bytes"].get<int>(), 0);
    EXPECT_GT(captured["hole_bytes"].get<int>(), 6 << 20) << "half of memory is never written";

    const Words push{"push",
                     "second",
                     "--parent",
                     "vm",
                     "--diff",
                     "--memory",
                     path("second.memory"),
                     "--state",
                     path("second.state")};
    ASSERT_EQ(server_->thaw(push).exit_code, 0);
    const Words pull{
        "pull", "second", "--memory", path("pulled.memory"), "--state", path("pulled.state")};
    ASSERT_EQ(server_->thaw(pull).exit_code, 0);
    const Outcome third = restore("pulled", from_file("pulled", to_the_end()));

    EXPECT_EQ(third.exit_code, 0) << messages();
    expect_uninterrupted(captured_ + second.output + third.output);
  }

  std::string captured_;  // what the VM printed
  std::optional<PageServer> server_;
  std::optional<Program> handler_;
};

INSTANTIATE_TEST_SUITE_P(Vcpus, MicroVmServedTest, testing::Values(1u, 3u));

TEST_P(MicroVmServedTest, GoesOnBeforeItsMemoryIsThere) {
  EXPECT_EQ(read_file(path("served.state")), read_file(path("vm.state")));
  const Outcome restored = restore("served", from_socket(to_the_end()));
  EXPECT_EQ(restored.exit_code, 0) << messages();
  expect_uninterrupted(captured_ + restored.output);

  const Json sessions = Json::parse(control({"ps"}).output)["sessions"];
  ASSERT_EQ(sessions.size(), 1u);
  EXPECT_GT(sessions[0]["faults"]["fetched"].get<int>(), 0);
}

TEST_P(MicroVmServedTest, GoesOnInANetworkOfItsOwn) {
  const Words unshare{"unshare", "--net"};
  if (run({"unshare", "--net", "true"}).exit_code != 0) {
    GTEST_SKIP() << "no network namespaces here";
  }
  const Outcome restored = restore("served", from_socket(to_the_end()), unshare);
  EXPECT_EQ(restored.exit_code, 0) << messages();
  expect_uninterrupted(captured_ + restored.output);
}

TEST_P(MicroVmServedTest, SecondVmOfTheHostsImageFindsItsPages) {
  ASSERT_EQ(control({"stop", "1"}).exit_code, 0);
  std::vector<int> faults;
  for (int i = 0; i < 2; ++i) {
    prepare({"--shared", "--allow-root-vmm"});
    Words arguments = from_socket(to_the_end());
    arguments.emplace_back("--shared");
    const Outcome restored = restore("served", arguments);
    EXPECT_EQ(restored.exit_code, 0) << messages();
    expect_uninterrupted(captured_ + restored.output);

    const Json sessions = Json::parse(control({"ps"}).output)["sessions"];
    const auto last = std::ranges::max_element(
        sessions, {}, [](const Json& session) { return session["session"].get<int>(); });
    faults.push_back((*last)["faults"]["total"]);
  }
  EXPECT_GT(faults[0], 100);
  // Of several vCPUs some run ahead when the slowest has finished, never equally far.
  EXPECT_LE(faults[1], GetParam() == 1 ? 0 : faults[0] / 4);
}

TEST_P(MicroVmServedTest, ShellsOfAPoolBecomeTheVm) {
  std::mutex mutex;
  std::string serial;  // guarded by it
  const auto sink = [&](ByteSpan bytes) {
    const std::lock_guard lock(mutex);
    serial += as_text(bytes);
  };
  const MicroVmShape shape = shape_of(read_state_file(path("vm.state")).value());
  const auto pool =
      RestorePool::create(std::make_unique<MicroVmShellFactory>(shape, sink), {.min = 0, .max = 1})
          .value();
  ASSERT_EQ(pool->warm(1).value(), 1u);
  for (const MemorySource& memory : {MemorySource(PreparedSession{path("socket")}),
                                     MemorySource(ImageFile{path("vm.memory")})}) {
    serial.clear();
    RestoredVm restored =
        pool->restore({memory, path("served.state")}, Deadline::after(kPatience)).value();
    MicroVm& vm = restored.as<MicroVmShell>().vm();
    vm.progress().show_at_most(kRounds);
    ASSERT_TRUE(succeeded(vm.start()));
    ASSERT_TRUE(succeeded(vm.progress().wait_for_rounds(kRounds)));
    vm.pause();

    expect_uninterrupted(captured_ + serial);
    EXPECT_TRUE(restored.profile().us_of("state"));
  }
}

TEST_P(MicroVmServedTest, ChangesBecomeASnapshot) { goes_on_from_its_changes(from_socket({})); }

TEST_P(MicroVmServedTest, ChangesOfASharedVmBecomeASnapshot) {
  ASSERT_EQ(control({"stop", "1"}).exit_code, 0);
  prepare({"--shared", "--allow-root-vmm"});
  goes_on_from_its_changes(from_socket({"--shared"}));
}

TEST_P(MicroVmServedTest, ChangesOfAVmFromAFileBecomeASnapshot) {
  goes_on_from_its_changes(from_file("vm"));
}

TEST_P(MicroVmServedTest, RestoredVmIsCapturedAgain) {
  const Outcome second =
      restore("served", from_socket(capture_arguments("second", kCapturedLater)));
  ASSERT_EQ(second.exit_code, 0) << messages();
  const Outcome third = restore("second", from_file("second", to_the_end()));
  EXPECT_EQ(third.exit_code, 0) << messages();
  expect_uninterrupted(captured_ + second.output + third.output);
}

TEST_P(MicroVmServedTest, StateOfAnotherCaptureIsRefused) {
  const Words later = capture_arguments("later", kCapturedLater);
  ASSERT_EQ(microvm(run_arguments(later)).exit_code, 0) << messages();

  const Outcome restored = restore("later", from_socket(to_the_end()));

  EXPECT_EQ(restored.exit_code, 1);
  EXPECT_EQ(restored.output, "");
  EXPECT_NE(messages().find("checksum_mismatch"), std::string::npos) << messages();
}

TEST_P(MicroVmServedTest, MemoryOfAnotherSizeIsNotServed) {
  change_state("served", [](MicroVmState& state) { state.memory.value += kHugePageBytes; });
  const Outcome restored = restore("served", from_socket(to_the_end()));
  EXPECT_EQ(restored.exit_code, 128 + 9);  // the fault handler refuses and kills it
  EXPECT_EQ(restored.output, "");
}

}  // namespace
}  // namespace thaw::test
