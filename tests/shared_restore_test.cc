// VMs that share this host's image of their snapshot, through the real programs.

#include <algorithm>
#include <csignal>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "format/chunk.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

class SharedRestoreTest : public RestoreTest {
 protected:
  /// A session on a socket of its own, and what a VMM does in it.
  struct Vm {
    std::uint64_t session;
    Program vmm;
  };
  Vm start(const std::string& mode, const std::string& name = "vm",
           const std::string& snapshot = "snapshot", const std::string& image = "image") {
    const std::uint64_t session = prepare({"--shared"}, name, snapshot);
    return {session, start_vmm("shared-" + mode, image, name)};
  }
  Json ended(Vm& vm, int exit_code = 0) {
    EXPECT_EQ(vm.vmm.wait().value(), exit_code) << vm.vmm.rest_of_output();
    return wait_for_state(vm.session, "ended");
  }
  std::uint64_t chunks_served() {
    return Json::parse(server_.thaw({"stats"}).output)["chunks_served"];
  }
  std::size_t pages_that_are_not_zero() const {
    std::size_t count = 0;
    for (std::size_t at = 0; at < image_.size(); at += kPageBytes) {
      count += is_zero_page(PageSpan(image_.data() + at, kPageBytes)) ? 0 : 1;
    }
    return count;
  }
};

INSTANTIATE_TEST_SUITE_P(Loops, SharedRestoreTest, both_loops(), loop_name);

TEST_P(SharedRestoreTest, SecondVmRaisesNoFault) {
  Vm first = start("verify");
  const Json cold = ended(first);
  EXPECT_TRUE(cold["shared"]);
  EXPECT_GT(cold["faults"]["total"], 0);
  EXPECT_EQ(cold["present_pages"], kPages);
  const std::uint64_t served = chunks_served();

  Vm second = start("verify");
  const Json warm = ended(second);

  EXPECT_EQ(warm["faults"]["total"], 0);
  EXPECT_EQ(chunks_served(), served);
}

TEST_P(SharedRestoreTest, PageThatSeveralVmsWantIsBroughtOnce) {
  std::vector<Vm> vms;
  for (int i = 0; i < 4; ++i) vms.push_back(start("verify", "vm" + std::to_string(i)));
  for (Vm& vm : vms) ended(vm);
  EXPECT_LE(chunks_served(), pages_that_are_not_zero());
}

TEST_P(SharedRestoreTest, WhatOneWritesOrGivesBackNoOtherSees) {
  Vm writer = start("scribble", "writer");
  Vm reader = start("verify", "reader");
  ended(reader);
  const Json report = ended(writer);
  EXPECT_GE(report["removed_pages"], kPages / 4);
  EXPECT_GT(report["faults"]["removed"], 0);
  Vm later = start("verify", "later");
  EXPECT_EQ(ended(later)["faults"]["total"], 0);
}

TEST_P(SharedRestoreTest, PagesGivenBackWhileOthersFaultAreZero) {
  Vm one = start("remove", "one");
  Vm two = start("remove", "two");
  Vm reader = start("verify", "reader");
  ended(one);
  ended(two);
  ended(reader);
}

TEST_P(SharedRestoreTest, MemoryInTwoRegionsIsIdentical) {
  Vm vm = start("two-regions");
  ended(vm);
}

TEST_P(SharedRestoreTest, VmThatHasUnmappedARegionGivesPagesBackAsBefore) {
  Vm vm = start("unmap");
  ASSERT_TRUE(succeeded(vm.vmm.wait_for_line("given back")));
  wait_for(vm.session, [](const Json& report) {
    return report["removed_pages"] == 1 || report["state"] == "ended";
  });
  vm.vmm.tell("go on");
  ended(vm);
}

TEST_P(SharedRestoreTest, VmmWhoseMemoryIsInShredsHoldsNobodyUp) {
  Vm other = start("halves", "other");
  ASSERT_TRUE(succeeded(other.vmm.wait_for_line("half")));
  Vm shreds = start("shreds", "shreds");
  ASSERT_TRUE(succeeded(shreds.vmm.wait_for_line("given back")));
  wait_for(shreds.session, [](const Json& report) { return report["removed_pages"] == 1; });
  other.vmm.tell("");
  EXPECT_EQ(ended(other)["handler_deaths"], 0);
  shreds.vmm.tell("");
  EXPECT_EQ(ended(shreds)["handler_deaths"], 0);
}

TEST_P(SharedRestoreTest, KilledVmLeavesTheImageToTheOthers) {
  Vm killed = start("halves", "killed");
  ASSERT_TRUE(succeeded(killed.vmm.wait_for_line("half")));
  Vm other = start("halves", "other");
  killed.vmm.signal(SIGKILL);
  ASSERT_TRUE(succeeded(other.vmm.wait_for_line("half")));
  other.vmm.tell("");
  ended(other);
}

TEST_P(SharedRestoreTest, VmmThatFloodsEndsNobody) {
  Vm flooding = start("flood", "flooding");
  ASSERT_TRUE(succeeded(flooding.vmm.wait_for_line("flooding")));
  Vm other = start("verify", "other");
  ended(other);
  flooding.vmm.tell("");
  ended(flooding);
}

TEST_P(SharedRestoreTest, SnapshotOfAnotherStoreHasAnImageOfItsOwn) {
  Vm first = start("halves", "first");
  ASSERT_TRUE(succeeded(first.vmm.wait_for_line("half")));
  replace_store("none", "old");
  write_file(path("other"), make_image(3, kPages));
  ASSERT_EQ(push("snapshot", "other").exit_code, 0);
  Vm second = start("verify", "second", "snapshot", "other");
  ended(second);

  replace_store("old", "new");
  first.vmm.tell("go on");
  ended(first);
}

TEST_P(SharedRestoreTest, VmmWithMemoryOfItsOwnIsKilled) {
  const std::uint64_t session = prepare({"--shared"});
  Program vmm({program_path("vmm"), path("vm"), path("image"), "verify"});
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  const Json report = wait_for_state(session, "ended");
  const std::string outcome = report["outcome"];
  EXPECT_TRUE(outcome.starts_with("region_mismatch")) << outcome;
  EXPECT_NE(outcome.find("host image"), std::string::npos) << outcome;
  EXPECT_EQ(report["faults"]["total"], 0) << "at the handoff";
}

TEST_P(SharedRestoreTest, SpoiledImageEndsAllVmsOnIt) {
  Vm victim = start("hold", "victim");
  const std::uint64_t patient = prepare({"--shared", "--on-unservable", "wait"}, "bystander");
  Vm bystander{patient, start_vmm("shared-hold", "image", "bystander")};
  const std::uint64_t awaited = prepare({"--shared"}, "awaited");
  prepare({"--shared"}, "spoiler");
  Program spoiler = start_vmm("shared-spoil", "image", "spoiler");

  for (Vm* const vm : {&victim, &bystander}) {
    EXPECT_EQ(vm->vmm.wait().value(), 128 + SIGKILL);
    const std::string outcome = wait_for_state(vm->session, "ended")["outcome"];
    EXPECT_NE(outcome.find("had not registered"), std::string::npos) << outcome;
  }
  wait_for_state(awaited, "ended");
  spoiler.signal(SIGKILL);
  EXPECT_EQ(spoiler.wait().value(), 128 + SIGKILL);
  // Once nobody has it any more, there is a new one.
  const Deadline deadline = Deadline::after(kPatience);
  std::vector<std::string> again{"prepare",  "snapshot", "--socket",
                                 path("vm"), "--shared", "--allow-root-vmm"};
  while (control(again).exit_code != 0) ASSERT_FALSE(deadline.passed());
  EXPECT_EQ(start_vmm("shared-verify").wait().value(), 0);
}

TEST_P(SharedRestoreTest, SpoiledImageGivesNothingAway) {
  Vm half = start("halves", "half");
  ASSERT_TRUE(succeeded(half.vmm.wait_for_line("half")));
  prepare({"--shared"}, "spoiler");
  const std::uint64_t session = prepare({"--no-record"});
  const Program spoiler = start_vmm("shared-spoil", "image", "spoiler");

  EXPECT_EQ(start_vmm("verify").wait().value(), 0);

  EXPECT_EQ(wait_for_state(session, "ended")["local_pages"], 0);
}

TEST_P(SharedRestoreTest, OtherSnapshotsTakeWhatTheyShareFromTheImage) {
  Bytes changed = image_;
  const Bytes other = make_image(3, 64);
  std::ranges::copy(other, changed.begin());
  write_file(path("changed"), changed);
  ASSERT_EQ(server_.thaw({"push", "later", "--memory", path("changed")}).exit_code, 0);
  Vm first = start("verify");
  ended(first);
  const std::uint64_t served = chunks_served();

  Vm second = start("verify", "vm", "later", "changed");
  const Json report = ended(second);

  EXPECT_GT(report["local_pages"], 0);
  EXPECT_LE(chunks_served() - served, 64u);
}

TEST_P(SharedRestoreTest, VmWithMemoryOfItsOwnTakesPagesFromTheImage) {
  Vm first = start("verify");
  ended(first);
  const std::uint64_t served = chunks_served();
  const std::uint64_t session = prepare({"--no-record"});
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  EXPECT_GT(wait_for_state(session, "ended")["local_pages"], 0);
  EXPECT_EQ(chunks_served(), served);
}

TEST_P(SharedRestoreTest, ImagesThatNoVmUsesKeepWithinTheBudget) {
  start_handler(server_.address(), {"--images-mib", "1"});
  ASSERT_EQ(push("other").exit_code, 0);
  Vm holding = start("halves", "holding");
  ASSERT_TRUE(succeeded(holding.vmm.wait_for_line("half")));

  const Outcome refused =
      control({"prepare", "other", "--socket", path("vm"), "--shared", "--allow-root-vmm"});
  EXPECT_EQ(Json::parse(refused.output)["error"]["code"], "limit_exceeded");

  holding.vmm.tell("");
  ended(holding);
  const std::uint64_t served = chunks_served();
  const Deadline deadline = Deadline::after(kPatience);
  const auto images = [&] {
    const auto descriptors = open_descriptors(handler_->worker());
    return std::ranges::count_if(descriptors, [](const std::string& descriptor) {
      return descriptor.find("memfd:thaw:") != std::string::npos;
    });
  };
  while (images() > 0) ASSERT_FALSE(deadline.passed()) << "the image stays";
  Vm again = start("verify");
  ended(again);
  EXPECT_GT(chunks_served(), served);
}

TEST_P(SharedRestoreTest, SnapshotOfAnIdleImageCanBeDeleted) {
  Vm vm = start("hold");
  EXPECT_EQ(server_.thaw({"rm", "snapshot"}).exit_code, 5) << "it is in use";
  vm.vmm.tell("");
  ended(vm);
  const Deadline deadline = Deadline::after(kPatience);
  while (server_.thaw({"rm", "snapshot"}).exit_code != 0) ASSERT_FALSE(deadline.passed());
}

TEST_P(SharedRestoreTest, QemuMapsTheImage) {
  const auto page = static_cast<std::size_t>(
      std::ranges::find_if(image_, [](std::byte b) { return b != std::byte{0}; }) - image_.begin());
  write_file(path("memory"), {});
  std::filesystem::resize_file(path("memory"), image_.size());
  for (const bool warm : {false, true}) {
    const std::uint64_t session = prepare({"--shared"});
    const std::string line = fmt::format(
        "printf 'xp /1ub {}\\nquit\\n' | LD_PRELOAD={} THAW_QEMU_MEMORY={} THAW_QEMU_SOCKET={} "
        "THAW_QEMU_SHARED=1 qemu-system-x86_64 -S -display none -monitor stdio -m 16 "
        "-machine pc,accel=tcg,memory-backend=ram "
        "-object memory-backend-file,id=ram,size=16M,share=off,mem-path={}",
        page, program_path("thaw-qemu.so"), path("memory"), path("vm"), path("memory"));

    const Outcome qemu = run({"sh", "-c", line});

    EXPECT_EQ(qemu.exit_code, 0) << qemu.output;
    const std::string shown =
        fmt::format("{:016x}: {:3}", page, std::to_integer<int>(image_[page]));
    EXPECT_NE(qemu.output.find(shown), std::string::npos) << shown << " in " << qemu.output;
    const Json report = wait_for_state(session, "ended");
    EXPECT_EQ(report["faults"]["total"] == 0, warm) << report;
  }
}

TEST_P(SharedRestoreTest, WhatCannotBeSharedIsRefused) {
  const auto refusal = [&](std::vector<std::string> command) {
    return Json::parse(control(std::move(command)).output)["error"]["code"];
  };
  EXPECT_EQ(
      control({"prepare", "snapshot", "--socket", path("vm"), "--shared", "--record"}).exit_code,
      2);
  ASSERT_EQ(
      server_.thaw({"push", "huge", "--memory", path("image"), "--region", "16M:2M"}).exit_code, 0);
  EXPECT_EQ(refusal({"prepare", "huge", "--socket", path("vm"), "--shared", "--allow-root-vmm"}),
            "unsupported");
}

}  // namespace
}  // namespace thaw::test
