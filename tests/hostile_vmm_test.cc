// A VMM that lies about its memory, against the real fault handler: it ends with a name or is
// served what it is due, and the VM beside it never notices.

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "tests/support/hanging_files.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

const std::size_t kTolerableGrowth = (16u << 20) + kSanitizerBytes;

class HostileVmmTest : public RestoreTest {
 protected:
  Program start_hostile(const std::string& lie) {
    Program vmm({program_path("hostile_vmm"), path("lie"), std::to_string(image_.size()), lie});
    static_cast<void>(vmm.wait_for_line("handed over"));  // it may be killed before
    return vmm;
  }
  static bool has_a_userfaultfd(pid_t process) {
    return std::ranges::count(open_descriptors(process), "anon_inode:[userfaultfd]") > 0;
  }
  /// A process that has a socket of our supervisor's, to listen at, and has got a userfaultfd
  /// there.
  std::optional<pid_t> door_with_a_userfaultfd() const {
    const std::vector<std::string> ours = open_descriptors(handler_->pid());
    for (const auto& process : std::filesystem::directory_iterator("/proc")) {
      std::ifstream comm(process.path() / "comm");
      std::string name;
      if (!std::getline(comm, name) || name != "thaw-door") continue;
      const pid_t door = std::stoi(process.path().filename());
      const auto theirs = open_descriptors(door);
      const bool is_ours = std::ranges::any_of(theirs, [&](const std::string& file) {
        return file.starts_with("socket:") && std::ranges::count(ours, file) > 0;
      });
      if (is_ours && has_a_userfaultfd(door)) return door;
    }
    return std::nullopt;
  }
};

INSTANTIATE_TEST_SUITE_P(Loops, HostileVmmTest, both_loops(), loop_name);

/// Lies for which the VMM is killed, and what the session says of it.
constexpr std::array kKilled{
    std::pair{"no-regions", "region_mismatch"},
    std::pair{"shorter", "region_mismatch"},
    std::pair{"longer", "region_mismatch"},
    std::pair{"empty", "region_"},
    std::pair{"odd-size", "region_unaligned"},
    std::pair{"odd-address", "region_unaligned"},
    std::pair{"odd-offset", "region_"},
    std::pair{"offset-beyond", "region_mismatch"},
    std::pair{"endless", "region_mismatch"},
    std::pair{"around-the-end", "region_mismatch"},
    std::pair{"page-of-nothing", "region_mismatch"},
    std::pair{"odd-pages", "region_mismatch"},
    std::pair{"twice-the-same", "region_"},
    std::pair{"too-many", "too_large"},
    std::pair{"garbage", "malformed"},
    std::pair{"text-beyond", "malformed"},
    std::pair{"too-large", "too_large"},
    std::pair{"descriptors", "surplus_descriptor"},
    std::pair{"two-userfaultfds", "surplus_descriptor"},
    std::pair{"tells-of-forks", "unsupported"},
};

TEST_P(HostileVmmTest, LiesEndInTheirNamesAndHarmNobody) {
  // With a working set the next sessions would have one connection more.
  const std::uint64_t beside = prepare({"--no-record"});
  Program vmm = start_half();
  struct Use {
    pid_t process;
    std::size_t descriptors;
    std::size_t memory;
  };
  std::vector<Use> before;
  for (const pid_t process : {handler_->pid(), handler_->worker()}) {
    before.push_back({process, open_descriptors(process).size(), resident_bytes(process)});
  }
  for (const auto& [lie, name] : kKilled) {
    const std::uint64_t number = prepare({}, "lie");
    Program hostile = start_hostile(lie);
    EXPECT_EQ(hostile.wait().value(), 128 + SIGKILL) << lie;
    const std::string outcome = wait_for_state(number, "ended")["outcome"];
    EXPECT_TRUE(outcome.starts_with(name)) << lie << ": " << outcome;
  }
  for (const auto& [process, descriptors, memory] : before) {
    EXPECT_LE(open_descriptors_down_to(process, descriptors), descriptors);
    EXPECT_LT(resident_bytes(process), memory + kTolerableGrowth);
  }
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  wait_for_state(beside, "ended");
}

TEST_P(HostileVmmTest, OddButTrueHandoffsAreServed) {
  for (const std::string lie : {"truth", "trickled", "chatter", "closed", "many-connections"}) {
    const std::uint64_t number = prepare({}, "lie");
    Program vmm = start_hostile(lie);
    wait_for_state(number, "serving");
    vmm.tell("go on");
    const auto byte = vmm.wait_for_line("read ");
    ASSERT_TRUE(succeeded(byte)) << lie;
    EXPECT_EQ(*byte, std::to_string(std::to_integer<int>(image_[0]))) << lie;
    EXPECT_EQ(vmm.wait().value(), 0) << lie;
    wait_for_state(number, "ended");
  }
}

TEST_P(HostileVmmTest, UserfaultfdsOfARefusedHandoffAreHeldUntilTheVmmHasExited) {
  const std::uint64_t number = prepare({"--on-unservable", "wait"}, "lie");
  Program hostile = start_hostile("two-userfaultfds");
  const Json refused = wait_for_state(number, "refused");
  EXPECT_TRUE(refused["outcome"].get<std::string>().starts_with("surplus_descriptor")) << refused;
  hostile.tell("go on");
  // Its first page stays missing: whatever it reads would be made up.
  EXPECT_EQ(control({"stop", std::to_string(number), "--kill"}).exit_code, 0);
  EXPECT_EQ(hostile.wait().value(), 128 + SIGKILL);
  EXPECT_EQ(hostile.rest_of_output(), "");
  EXPECT_EQ(wait_for_state(number, "ended")["outcome"], "stopped, and the VMM killed");
}

/// The one that connects dies, the one whose memory it was lives on and has no userfaultfd.
TEST_P(HostileVmmTest, MemoryOfAnotherProcessIsHeldUntilThatHasExited) {
  for (const auto& [lie, state] :
       {std::pair("of-another", "serving"), std::pair("of-another-garbage", "refused")}) {
    const std::uint64_t number = prepare({"--on-unservable", "wait"}, "lie");
    Program owner({program_path("hostile_vmm"), path("lie"), std::to_string(image_.size()), lie});
    const auto vmm = owner.wait_for_line("other ");
    ASSERT_TRUE(succeeded(vmm)) << lie;
    wait_for_state(number, state);
    ::kill(std::stoi(*vmm), SIGKILL);
    wait_for_state(number, "ended");
    owner.tell("go on");
    const Json held = wait_for(number, [](const Json& report) {
      return report["outcome"].get<std::string>().contains("another process has its memory");
    });
    EXPECT_EQ(held["state"], "ended") << held;
    EXPECT_NE(control({"stop", std::to_string(number)}).exit_code, 0) << lie;
    handler_->signal(SIGTERM);
    EXPECT_EQ(control({"ps"}).exit_code, 0) << "it serves to the end";
    owner.signal(SIGKILL);
    EXPECT_EQ(owner.wait().value(), 128 + SIGKILL);
    EXPECT_EQ(owner.rest_of_output(), "") << lie;
    EXPECT_EQ(handler_->wait().value(), 0) << lie;
    handler_.reset();
    start_handler();
  }
}

TEST_P(HostileVmmTest, FilesWhoseCloseLastsHoldNobodyUp) {
  const pid_t worker = handler_->worker();
  std::vector<Program> hostile;
  for (const std::string lie : {"lingers", "lingers-after", "lingers-unheard"}) {
    const std::uint64_t number = prepare({}, "lie");
    hostile.push_back(start_hostile(lie));
    const bool served = lie == "lingers-after";
    if (served) wait_for_state(number, "serving");
    prepare({"--no-record"});
    EXPECT_EQ(start_vmm("verify").wait().value(), 0) << lie;
    if (served) {
      hostile.back().tell("go on");
      EXPECT_EQ(hostile.back().wait_for_line("read ").value(),
                std::to_string(std::to_integer<int>(image_[0])))
          << lie;
    } else {
      EXPECT_EQ(control({"stop", std::to_string(number)}).exit_code, 0);
    }
    wait_for_state(number, "ended");
  }
  EXPECT_EQ(handler_->worker(), worker) << "which has not stood still";
  EXPECT_EQ(
      run({program_path("thaw-faulthandler"), "--control", path("control"), "--upgrade"}).exit_code,
      0);
  EXPECT_EQ(control({"ps"}).exit_code, 0);
  handler_->signal(SIGTERM);
  EXPECT_EQ(handler_->wait().value(), 0);
  handler_.reset();
}

TEST_P(HostileVmmTest, VmmThatIsHalfInIsKilledWhenItsDoorOrSupervisorDies) {
  for (const bool door_dies : {true, false}) {
    prepare({"--on-unservable", "wait"}, "lie");
    Program hostile = start_hostile("half");
    const Deadline deadline = Deadline::after(kPatience);
    std::optional<pid_t> door;
    while (!(door = door_with_a_userfaultfd())) ASSERT_FALSE(deadline.passed());
    while (!has_a_userfaultfd(handler_->pid())) ASSERT_FALSE(deadline.passed());
    ::kill(door_dies ? *door : handler_->pid(), SIGKILL);
    hostile.tell("go on");  // and read zeros
    EXPECT_EQ(hostile.wait().value(), 128 + SIGKILL) << door_dies;
    EXPECT_EQ(hostile.rest_of_output(), "") << door_dies;
  }
}

TEST_P(HostileVmmTest, VmmWithoutRemoveEventsIsServed) {
  const std::uint64_t number = prepare({}, "lie");
  Program vmm = start_hostile("no-remove-events");
  EXPECT_FALSE(wait_for_state(number, "serving")["remove_events"]);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait_for_line("read ").value(), std::to_string(std::to_integer<int>(image_[0])));
  vmm.tell("give it back");
  EXPECT_EQ(vmm.wait_for_line("again ").value(), "0") << "never what it had before";
  EXPECT_EQ(vmm.wait().value(), 0);
  wait_for_state(number, "ended");
  // Of the host image a page that was given back would show again.
  const std::uint64_t shared = prepare({"--shared"}, "lie");
  EXPECT_EQ(start_hostile("no-remove-events").wait().value(), 128 + SIGKILL);
  const std::string outcome = wait_for_state(shared, "ended")["outcome"];
  EXPECT_TRUE(outcome.starts_with("no_remove_events")) << outcome;
}

TEST_P(HostileVmmTest, StormOnItsOwnAddressSpaceHarmsNobody) {
  for (const std::string kind : {"", "shared-"}) {
    const std::uint64_t number = prepare(
        kind.empty() ? std::vector<std::string>{} : std::vector<std::string>{"--shared"}, "storm");
    Program storm = start_vmm(kind + "slow-mm", "image", "storm");
    ASSERT_TRUE(succeeded(storm.wait_for_line("storming"))) << kind;
    prepare({"--no-record"});
    EXPECT_EQ(start_vmm("verify").wait().value(), 0) << kind;
    storm.tell("enough");
    EXPECT_EQ(storm.wait().value(), 0) << kind;
    EXPECT_EQ(wait_for_state(number, "ended")["outcome"], "the VMM gave its memory up") << kind;
  }
}

/// Nothing of these is the handler's memory, so only who lies has to do without his pages.
TEST_P(HostileVmmTest, MemoryThatIsNotWhereItIsSaidToBeHarmsNobodyElse) {
  for (const std::string lie : {"of-the-kernel", "of-nobody", "unregistered", "tracked", "left"}) {
    const std::uint64_t number = prepare({}, "lie");
    Program hostile = start_hostile(lie);
    prepare();
    EXPECT_EQ(start_vmm("verify").wait().value(), 0) << lie;
    hostile.signal(SIGKILL);
    EXPECT_EQ(hostile.wait().value(), 128 + SIGKILL);
    EXPECT_NE(wait_for_state(number, "ended")["outcome"], "") << lie;
  }
}

/// What it does is the same with either loop, and takes some seconds.
class UnkillableHandlerTest : public HostileVmmTest {};
INSTANTIATE_TEST_SUITE_P(Loops, UnkillableHandlerTest, testing::Values(LoopKind::kUring),
                         loop_name);

TEST_P(UnkillableHandlerTest, CallOnAVmsMemoryThatDoesNotEndHoldsNobodyUp) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root mounts file systems";
  const std::uint64_t beside = prepare({"--no-record"});
  Program vmm = start_half();
  std::filesystem::create_directory(path("files"));
  std::optional<Program> hostile;  // which can end once the files are released
  HangingFiles files(path("files"));
  const std::uint64_t number = prepare({"--no-record"}, "lie");
  hostile.emplace(start_hostile("holds-its-locks"));
  wait_for_state(number, "serving");
  const pid_t worker = handler_->worker();
  // Its page comes when the locks are held.
  server_.suspend();
  hostile->tell("go on");
  const Deadline held_by = Deadline::after(kPatience);
  while (!files.hang()) ASSERT_FALSE(held_by.passed());
  server_.resume();
  const Deadline replaced_by = Deadline::after(kPatience);
  while (handler_->children().size() < 2) ASSERT_FALSE(replaced_by.passed());
  EXPECT_EQ(handler_->children().front(), worker) << "which does not end";
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  wait_for_state(beside, "ended");
  prepare({"--no-record"});
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  EXPECT_EQ(push("again").exit_code, 0);
  files.release();
  EXPECT_EQ(hostile->wait().value(), 128 + SIGKILL);
  const Deadline reaped_by = Deadline::after(kPatience);
  while (handler_->children().size() > 1) ASSERT_FALSE(reaped_by.passed());
}

}  // namespace
}  // namespace thaw::test
