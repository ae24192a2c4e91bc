// A VMM that lies about its memory, against the real fault handler: it ends with a name or is
// served what it is due, and the VM beside it never notices.

#include <csignal>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

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

}  // namespace
}  // namespace thaw::test
